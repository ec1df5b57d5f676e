// Adam and AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019) for a vector of elements of a parameter, as in torch's
// fused kernel. A row has the addresses of the parameter, of the running means of its gradient and of its squared
// gradient, of the number of earlier steps, of a bfloat16 copy of the parameter (0 if there is none), and of the
// settings: learning rate, beta1, beta2, epsilon, weight decay, and whether the decay is decoupled, as in AdamW.

using Vector = at::vec::Vectorized<float>;

class Adam {
    float *param = nullptr, *mean, *square;
    at::BFloat16* half;
    float decay;
    Vector shrinkage, step_size, root, epsilon, mean_weight, square_weight, square_decay;

    static void store(at::BFloat16* to, Vector x, int64_t size) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
        if (size == Vector::size())
            return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
#endif
        at::vec::convert<at::BFloat16>(x).store(to, size);
    }

   public:
    Adam() = default;  // no update

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
        shrinkage = Vector(decoupled ? 1 - rate * settings[4] : 1);
        step_size = Vector(-rate / (1 - std::pow(beta1, step)));
        root = Vector(1 / std::sqrt(1 - std::pow(beta2, step))), epsilon = Vector(settings[3]);
        mean_weight = Vector(1 - beta1), square_weight = Vector(1 - beta2), square_decay = Vector(beta2);
    }

    explicit operator bool() const { return param != nullptr; }
    bool decays() const { return decay != 0; }

    // These are more streams than hardware prefetchers follow.
    void prefetch(int64_t i) const {
        for (const float* const stream : {param, mean, square}) __builtin_prefetch(stream + i, 1);
        if (half) __builtin_prefetch(half + i, 1);
    }

    // Updates the elements from i on; without branches, which would take a good part of the time.
    template <bool decays, bool has_half>
    void step(int64_t i, Vector gradient, int64_t size = Vector::size()) const {
        Vector p = Vector::loadu(param + i, size), m = Vector::loadu(mean + i, size);
        Vector s = Vector::loadu(square + i, size);
        if (decays) gradient = at::vec::fmadd(p, Vector(decay), gradient);  // not always: 0 p is NaN at infinite p
        m = at::vec::fmadd(mean_weight, gradient - m, m);
        s = at::vec::fmadd(square_weight * gradient, gradient, square_decay * s);
        p = at::vec::fmadd(p, shrinkage, step_size * m / at::vec::fmadd(s.sqrt(), root, epsilon));
        m.store(mean + i, size);
        s.store(square + i, size);
        p.store(param + i, size);
        if (has_half) store(half + i, p, size);
    }
};
