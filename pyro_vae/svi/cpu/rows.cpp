// Rows of data that may be larger than the caches. Each lies elsewhere, so they are asked for some rows ahead.

constexpr int64_t AHEAD = 8, LINE = 64;  // rows, and bytes of a line of a cache
constexpr int64_t SMALL = 1 << 15;       // bytes that are not worth waking other threads for

extern "C" void kernel(char* out, const char* data, const int64_t* places, int64_t count, int64_t rows, int64_t bytes) {
    for (int64_t i = 0; i < count; i++)
        if (places[i] < -rows || places[i] >= rows)
            throw std::out_of_range("index " + std::to_string(places[i]) + " is out of bounds for " + std::to_string(rows));
    const auto row = [=](int64_t i) { return data + (places[i] < 0 ? places[i] + rows : places[i]) * bytes; };
#pragma omp parallel for schedule(static) if (count * bytes > SMALL)
    for (int64_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            for (int64_t byte = 0; byte < bytes; byte += LINE) __builtin_prefetch(row(i + AHEAD) + byte);
        std::memcpy(out + i * bytes, row(i), bytes);
    }
}
