// Adam and AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019) of a parameter, some numbers at a time, as torch's fused
// kernel does it. A row has the addresses of the parameter, of the means of its gradient and of the square of that, of
// the number of steps before this one, of a copy of the parameter in bfloat16, or 0 where there is none, and of the
// settings: rate, beta1, beta2, epsilon, weight decay, and whether that is decoupled, as AdamW has it.

using Vector = at::vec::Vectorized<float>;

class Adam {
    float *param = nullptr, *mean, *square;
    at::BFloat16* half;
    float decay;
    Vector kept, step_size, root, epsilon, of_mean, of_square, kept_of_square;

    static void store(at::BFloat16* to, Vector x, int64_t size) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
        if (size == Vector::size())
            return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
#endif
        at::vec::convert<at::BFloat16>(x).store(to, size);
    }

   public:
    Adam() = default;  // of nothing

    explicit Adam(const int64_t* row)
        : param(reinterpret_cast<float*>(row[0])),
          mean(reinterpret_cast<float*>(row[1])),
          square(reinterpret_cast<float*>(row[2])),
          half(reinterpret_cast<at::BFloat16*>(row[4])) {
        if (!param) return;
        const double step = *reinterpret_cast<const float*>(row[3]) + 1;
        const double* const settings = reinterpret_cast<const double*>(row[5]);
        const double rate = settings[0], beta1 = settings[1], beta2 = settings[2];
        const bool decoupled = settings[5] != 0;
        decay = decoupled ? 0 : settings[4];
        kept = Vector(decoupled ? 1 - rate * settings[4] : 1);
        step_size = Vector(-rate / (1 - std::pow(beta1, step)));
        root = Vector(1 / std::sqrt(1 - std::pow(beta2, step))), epsilon = Vector(settings[3]);
        of_mean = Vector(1 - beta1), of_square = Vector(1 - beta2), kept_of_square = Vector(beta2);
    }

    explicit operator bool() const { return param != nullptr; }
    bool decays() const { return decay != 0; }

    // More streams than processors look ahead in by themselves.
    void prefetch(int64_t i) const {
        for (const float* const one : {param, mean, square}) __builtin_prefetch(one + i, 1);
        if (half) __builtin_prefetch(half + i, 1);
    }

    // Of the numbers from i on; with nothing to decide, as that would take a good part of the time.
    template <bool decays, bool has_half>
    void step(int64_t i, Vector gradient, int64_t size = Vector::size()) const {
        Vector p = Vector::loadu(param + i, size), m = Vector::loadu(mean + i, size);
        Vector s = Vector::loadu(square + i, size);
        if (decays) gradient = at::vec::fmadd(p, Vector(decay), gradient);  // where p may be infinite, 0 p is not 0
        m = at::vec::fmadd(of_mean, gradient - m, m);
        s = at::vec::fmadd(of_square * gradient, gradient, kept_of_square * s);
        p = at::vec::fmadd(p, kept, step_size * m / at::vec::fmadd(s.sqrt(), root, epsilon));
        m.store(mean + i, size);
        s.store(square + i, size);
        p.store(param + i, size);
        if (has_half) store(half + i, p, size);
    }
};
