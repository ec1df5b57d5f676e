// A step of Adam or AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019) of all parameters, as torch's fused kernel does
// it. `parts` has a row for each piece of a parameter: the addresses of the piece, of its gradient, of the means of that
// and of its square, of the number of steps; and how many numbers there are. `settings`: rate, beta1, beta2, epsilon,
// weight decay, and whether that is decoupled, as AdamW has it.

using Vector = at::vec::Vectorized<float>;

extern "C" void kernel(const int64_t* parts, int64_t count, float** steps, int64_t num_steps, const double* settings) {
    const double rate = settings[0], beta1 = settings[1], beta2 = settings[2], decay = settings[4];
    const bool decoupled = settings[5] != 0;
    for (int64_t i = 0; i < num_steps; i++) *steps[i] += 1;
#pragma omp parallel for schedule(static) if (count > 1)
    for (int64_t part = 0; part < count; part++) {
        const int64_t* row = parts + 6 * part;
        float* const param = reinterpret_cast<float*>(row[0]);
        const float* const gradient = reinterpret_cast<const float*>(row[1]);
        float* const mean = reinterpret_cast<float*>(row[2]);
        float* const square = reinterpret_cast<float*>(row[3]);
        const double step = *reinterpret_cast<const float*>(row[4]);
        const Vector step_size(-rate / (1 - std::pow(beta1, step)));
        const Vector root(1 / std::sqrt(1 - std::pow(beta2, step))), epsilon(settings[3]);
        const Vector of_mean(1 - beta1), of_square(1 - beta2), kept(beta2);
        for (int64_t i = 0; i < row[5]; i += Vector::size()) {
            const int64_t size = std::min<int64_t>(Vector::size(), row[5] - i);
            Vector p = Vector::loadu(param + i, size), g = Vector::loadu(gradient + i, size);
            if (decay != 0) {
                if (decoupled)
                    p = p * Vector(1 - rate * decay);
                else
                    g = g + p * Vector(decay);
            }
            Vector m = Vector::loadu(mean + i, size);
            m = m + of_mean * (g - m);
            const Vector s = kept * Vector::loadu(square + i, size) + of_square * g * g;
            m.store(mean + i, size);
            s.store(square + i, size);
            (p + step_size * m / at::vec::fmadd(s.sqrt(), root, epsilon)).store(param + i, size);
        }
    }
}
