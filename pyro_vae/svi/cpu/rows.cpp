// Gathers rows of data that may be larger than the caches, and prefetches rows.

constexpr int64_t AHEAD = 8, LINE = 64;  // rows; bytes of a cache line
constexpr int64_t SMALL = 1 << 15;       // bytes; up to here a single thread is faster

extern "C" void kernel(char* out, const char* data, const int64_t* indices, int64_t count, int64_t rows, int64_t bytes) {
    for (int64_t i = 0; i < count; i++)
        if (indices[i] < -rows || indices[i] >= rows)
            throw std::out_of_range("index " + std::to_string(indices[i]) + " is out of bounds for " + std::to_string(rows));
    const auto row = [=](int64_t i) { return data + (indices[i] < 0 ? indices[i] + rows : indices[i]) * bytes; };
#pragma omp parallel for schedule(static) if (count * bytes > SMALL)
    for (int64_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            for (int64_t byte = 0; byte < bytes; byte += LINE) __builtin_prefetch(row(i + AHEAD) + byte);
        std::memcpy(out + i * bytes, row(i), bytes);
    }
}
