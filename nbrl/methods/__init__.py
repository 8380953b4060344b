"""The paper's algorithms, one file and one visible loop each."""
