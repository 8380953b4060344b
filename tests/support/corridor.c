/* Walk a corridor of 8 cells to its right end: 1 there, -0.1 for every other step, 50 steps at most. */
#include <stdint.h>

enum { CELLS = 8, STEPPED = 1, TERMINATED = 2, TRUNCATED = 4 };
typedef struct { int32_t cell, steps; } Corridor;

static void look(const Corridor *c, float *observation) {
    for (int i = 0; i < CELLS; i++) observation[i] = i == c->cell;
}

int32_t corridor_reset(void *state, uint64_t seed, void *observation) {
    Corridor *c = state;
    c->cell = seed % (CELLS - 1);
    c->steps = 0;
    look(c, observation);
    return STEPPED;
}

int32_t corridor_step(void *state, const void *action, void *observation, float *reward) {
    Corridor *c = state;
    if (*(const int32_t *)action == 1) c->cell++;
    else if (c->cell > 0) c->cell--;
    int there = c->cell == CELLS - 1;
    *reward = there ? 1.0f : -0.1f;
    look(c, observation);
    return STEPPED | (there ? TERMINATED : ++c->steps == 50 ? TRUNCATED : 0);
}
