// A step of Adam over all parameters. `parts` has a row for each part of a parameter: a row of adam.h, the address of
// the gradient, and the number of elements.

#include "adam.h"

constexpr int64_t AHEAD = 256, SMALL = 8192;  // elements; up to SMALL a single thread is faster

template <bool decays, bool has_half>
static void step(const Adam adam, const float* gradient, int64_t count) {
    for (int64_t i = 0; i < count; i += Vector::size()) {
        const int64_t size = std::min<int64_t>(Vector::size(), count - i);
        adam.prefetch(i + AHEAD);
        __builtin_prefetch(gradient + i + AHEAD);
        adam.step<decays, has_half>(i, Vector::loadu(gradient + i, size), size);
    }
}

extern "C" void kernel(const int64_t* parts, int64_t count, float** steps, int64_t num_steps) {
    int64_t sum = 0;
    for (int64_t part = 0; part < count; part++) sum += parts[8 * part + 7];
#pragma omp parallel for schedule(static) if (sum > SMALL)
    for (int64_t part = 0; part < count; part++) {
        const int64_t* const row = parts + 8 * part;
        const float* const gradient = reinterpret_cast<const float*>(row[6]);
        const Adam adam(row);
        if (adam.decays())
            row[4] ? step<true, true>(adam, gradient, row[7]) : step<true, false>(adam, gradient, row[7]);
        else
            row[4] ? step<false, true>(adam, gradient, row[7]) : step<false, false>(adam, gradient, row[7]);
    }
    for (int64_t i = 0; i < num_steps; i++) *steps[i] += 1;
}
