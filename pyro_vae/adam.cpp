// A step of Adam or AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019) of all parameters, as torch's fused kernel does
// it. `parts` has a row for each piece of a parameter: the addresses of the piece, of its gradient, of the means of that
// and of its square, of the number of steps, and of a copy of the piece in bfloat16, or 0 where there is none; and how
// many numbers there are. `settings`: rate, beta1, beta2, epsilon, weight decay, and whether that is decoupled, as AdamW
// has it.

using Vector = at::vec::Vectorized<float>;
constexpr int64_t AHEAD = 256;  // numbers: five streams are more than processors look ahead in by themselves

static inline void store(at::BFloat16* to, Vector x, int64_t size) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
    if (size == Vector::size()) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
#endif
    at::vec::convert<at::BFloat16>(x).store(to, size);
}

extern "C" void kernel(const int64_t* parts, int64_t count, float** steps, int64_t num_steps, const double* settings) {
    const double rate = settings[0], beta1 = settings[1], beta2 = settings[2];
    const bool decoupled = settings[5] != 0;
    const float decay = decoupled ? 0 : settings[4], kept = decoupled ? 1 - rate * settings[4] : 1;
    for (int64_t i = 0; i < num_steps; i++) *steps[i] += 1;
#pragma omp parallel for schedule(static) if (count > 1)
    for (int64_t part = 0; part < count; part++) {
        const int64_t* row = parts + 7 * part;
        float* const param = reinterpret_cast<float*>(row[0]);
        const float* const gradient = reinterpret_cast<const float*>(row[1]);
        float* const mean = reinterpret_cast<float*>(row[2]);
        float* const square = reinterpret_cast<float*>(row[3]);
        const double step = *reinterpret_cast<const float*>(row[4]);
        at::BFloat16* const half = reinterpret_cast<at::BFloat16*>(row[5]);
        const Vector step_size(-rate / (1 - std::pow(beta1, step)));
        const Vector root(1 / std::sqrt(1 - std::pow(beta2, step))), epsilon(settings[3]);
        const Vector of_mean(1 - beta1), of_square(1 - beta2), kept_of_square(beta2);
        for (int64_t i = 0; i < row[6]; i += Vector::size()) {
            const int64_t size = std::min<int64_t>(Vector::size(), row[6] - i);
            for (const float* const one : {gradient, (const float*)param, (const float*)mean, (const float*)square})
                __builtin_prefetch(one + i + AHEAD, 1);
            if (half) __builtin_prefetch(half + i + AHEAD, 1);
            Vector p = Vector::loadu(param + i, size), g = Vector::loadu(gradient + i, size);
            if (decay != 0) g = g + p * Vector(decay);
            if (kept != 1) p = p * Vector(kept);
            Vector m = Vector::loadu(mean + i, size);
            m = at::vec::fmadd(of_mean, g - m, m);
            const Vector s = at::vec::fmadd(of_square * g, g, kept_of_square * Vector::loadu(square + i, size));
            p = p + step_size * m / at::vec::fmadd(s.sqrt(), root, epsilon);
            m.store(mean + i, size);
            s.store(square + i, size);
            p.store(param + i, size);
            if (half) store(half + i, p, size);
        }
    }
}
