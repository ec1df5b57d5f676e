// A matrix product, activation(left right + bias), of matrices with any strides; in float32, or, where HALF is true, of
// bfloat16 factors with sums in float32.
//
// A tile of ROWS x VECTORS vectors of the result stays in registers, while each element of `left` is broadcast against
// vectors of `right`. So the rows of `right` must be contiguous; `left` may have any strides. Where the columns of
// `right` are contiguous, as those of a transposed weight, the transposed product is computed instead, and stored
// transposed. If neither fits, the smaller matrix is copied. Libraries first copy both factors into blocks, which takes
// a good part of the time of a product with a batch of some hundred rows. In bfloat16 the processor multiplies pairs of
// neighbours along the inner dimension: `left` is used in place if its rows are contiguous, and `right` is always
// copied.
//
// If the result is the gradient of a parameter and `update` is its row of adam.h, Adam's update is done while the
// gradient is in registers, and the gradient is not stored. This requires rows of whole vectors, no transposition, and
// no weight decay through the gradient.

#include "adam.h"

constexpr int64_t WIDTH = Vector::size();
#if defined(CPU_CAPABILITY_AVX512)
constexpr int ROWS = 8, FEWER = 4, VECTORS = 3;  // 24 of 32 registers hold sums
#else
constexpr int ROWS = 6, FEWER = 2, VECTORS = 2;  // 12 of 16
#endif
constexpr int64_t PANEL = VECTORS * WIDTH;
constexpr int64_t BLOCK = 4 * ROWS;  // rows to which a panel of `right` is applied while it is in the cache
constexpr int64_t SMALL = 100000;    // multiplications; up to here a single thread is faster

// A word is a float, or a pair of bfloat16 numbers. The strides of `left` are in bytes, that of `right` in words.
struct Product {
    const char* left;
    const float *right, *bias;
    float* out;
    int64_t rows, columns, words, left_row, left_word, right_word, out_row, activation;
    bool transposed;
    Adam adam;
};

// tanh, within 3 units in the last place: the minimax approximation x p(x^2) / q(x^2) up to 9.05, where tanh rounds to
// 1, computed by least squares with the weights of Lawson (1961).
static inline Vector tanh_of(Vector x) {
    x = at::vec::clamp(x, Vector(-9.05f), Vector(9.05f));  // keeps NaN
    const Vector square = x * x;
    Vector p(1.3265317e-8f), q(7.740029e-7f);
    for (const float c : {2.0544716e-5f, 3.491679e-3f, 1.3377735e-1f, 1.f}) p = at::vec::fmadd(p, square, Vector(c));
    for (const float c : {3.2792406e-4f, 2.5862111e-2f, 4.6711048e-1f, 1.f}) q = at::vec::fmadd(q, square, Vector(c));
    return at::vec::clamp(x * p / q, Vector(-1), Vector(1));
}

static inline Vector activated(Vector x, int64_t activation) {
    if (activation == 1) return tanh_of(x);
    if (activation == 2) return at::vec::maximum(x, Vector(0));  // keeps NaN
    return x;
}

template <bool half>
static inline Vector multiplied(Vector left, Vector right, Vector sum) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
    if constexpr (half) return _mm512_dpbf16_ps(sum, (__m512bh)(__m512)left, (__m512bh)(__m512)right);
#endif
    return at::vec::fmadd(left, right, sum);
}

// to[j, i] = from[i, j], for the first columns j.
template <int rows>
static inline void store_transposed(const Vector* from, float* to, int64_t to_row, int64_t columns) {
#if defined(CPU_CAPABILITY_AVX512)
    if (rows == 8 && columns == WIDTH) {
        __m512d fours[2][4];  // for each half of the rows: column k of each group of four columns
        for (int half = 0; half < 2; half++) {
            const Vector* const x = from + 4 * half;
            const __m512d a = (__m512d)_mm512_unpacklo_ps(x[0], x[1]), b = (__m512d)_mm512_unpackhi_ps(x[0], x[1]);
            const __m512d c = (__m512d)_mm512_unpacklo_ps(x[2], x[3]), d = (__m512d)_mm512_unpackhi_ps(x[2], x[3]);
            fours[half][0] = _mm512_unpacklo_pd(a, c), fours[half][1] = _mm512_unpackhi_pd(a, c);
            fours[half][2] = _mm512_unpacklo_pd(b, d), fours[half][3] = _mm512_unpackhi_pd(b, d);
        }
        const __m512i indices[] = {_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)};
        for (int k = 0; k < 4; k++)
            for (int part = 0; part < 2; part++) {
                const __m512d two = _mm512_permutex2var_pd(fours[0][k], indices[part], fours[1][k]);
                float* const at = to + (8 * part + k) * to_row;
                _mm256_storeu_pd(reinterpret_cast<double*>(at), _mm512_castpd512_pd256(two));
                _mm256_storeu_pd(reinterpret_cast<double*>(at + 4 * to_row), _mm512_extractf64x4_pd(two, 1));
            }
        return;
    }
#endif
    float buffer[rows][WIDTH];
    for (int i = 0; i < rows; i++) from[i].store(buffer[i], columns);
    for (int64_t j = 0; j < columns; j++)
        for (int i = 0; i < rows; i++) to[j * to_row + i] = buffer[i][j];
}

// The last vector ends with the row, and so may compute some columns twice. Only a row that is shorter than a vector
// needs masks (`narrow`).
template <int rows, int vectors, bool narrow, bool half>
static inline __attribute__((always_inline)) void tile(const Product& p, int64_t row, int64_t column) {
    const int64_t count = narrow ? p.columns : WIDTH;
    const int64_t last = narrow ? 0 : std::min((vectors - 1) * WIDTH, p.columns - column - WIDTH);
    const char* left = p.left + row * p.left_row;
    const float* right = p.right + column;
    const int64_t offset = row * p.out_row + column;
    if (p.adam)
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++) p.adam.prefetch(offset + i * p.out_row + v * WIDTH);
    Vector sums[rows][vectors];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sums[i][v] = Vector(0);
    for (int64_t k = 0; k < p.words; k++, left += p.left_word, right += p.right_word) {
        Vector of_right[vectors];
        for (int v = 0; v < vectors - 1; v++) of_right[v] = Vector::loadu(right + v * WIDTH);
        of_right[vectors - 1] = narrow ? Vector::loadu(right, count) : Vector::loadu(right + last);
        for (int i = 0; i < rows; i++) {
            float word;
            std::memcpy(&word, left + i * p.left_row, sizeof word);
            for (int v = 0; v < vectors; v++) sums[i][v] = multiplied<half>(Vector(word), of_right[v], sums[i][v]);
        }
    }
    if (p.adam) {
        const Adam adam = p.adam;  // a copy, which the compiler knows that stores don't alias
        const int64_t out_row = p.out_row;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) adam.step<false, half>(offset + i * out_row + v * WIDTH, sums[i][v]);
        return;
    }
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) {
        const int64_t first = column + (v < vectors - 1 ? v * WIDTH : last);
        Vector of_rows[rows];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Vector x = sums[i][v];
            if (p.bias) x = x + (p.transposed ? Vector(p.bias[row + i]) : Vector::loadu(p.bias + first, count));
            of_rows[i] = activated(x, p.activation);
        }
        if (p.transposed)
            store_transposed<rows>(of_rows, p.out + first * p.out_row + row, p.out_row, count);
        else
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) of_rows[i].store(p.out + (row + i) * p.out_row + first, count);
    }
}

template <int vectors, bool narrow, bool half>
static void panel(const Product& p, int64_t row, int64_t end, int64_t column) {
    for (; row + ROWS <= end; row += ROWS) tile<ROWS, vectors, narrow, half>(p, row, column);
    for (; row + FEWER <= end; row += FEWER) tile<FEWER, vectors, narrow, half>(p, row, column);
    for (; row < end; row++) tile<1, vectors, narrow, half>(p, row, column);
}

// The number of columns to compute next: of four vectors two, because a single last vector takes half the time of
// three.
static inline int64_t next_width(int64_t columns) {
    if (columns > PANEL && columns <= PANEL + WIDTH) return 2 * WIDTH;
    return std::min(columns, PANEL);
}

template <bool half>
static void rows_of(const Product& p, int64_t row, int64_t end) {
    if (p.columns < WIDTH) return panel<1, true, half>(p, row, end, 0);
    for (int64_t column = 0, width; column < p.columns; column += width) {
        width = next_width(p.columns - column);
        if (width > 2 * WIDTH)
            panel<VECTORS, false, half>(p, row, end, column);
        else if (width > WIDTH)
            panel<2, false, half>(p, row, end, column);
        else
            panel<1, false, half>(p, row, end, column);
    }
}

// to[j, i] = from[i, j], for rows j of `to`.
static void transpose(const float* from, int64_t from_row, float* to, int64_t to_row, int64_t j, int64_t end) {
    for (; j + WIDTH <= end; j += WIDTH) {
        int64_t i = 0;
        for (; i + WIDTH <= to_row; i += WIDTH)
            at::vec::transpose_mxn<float, WIDTH, WIDTH>(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
        for (; i < to_row; i++)
            for (int64_t v = j; v < j + WIDTH; v++) to[v * to_row + i] = from[i * from_row + v];
    }
    for (; j < end; j++)
        for (int64_t i = 0; i < to_row; i++) to[j * to_row + i] = from[i * from_row + j];
}

// Interleaves pairs of rows, for rows j of `to`.
static void pair_up(const uint16_t* from, int64_t from_row, uint32_t* to, int64_t to_row, int64_t j, int64_t end) {
    for (; j < end; j++) {
        const uint16_t *even = from + 2 * j * from_row, *odd = even + from_row;
        uint32_t* const pairs = to + j * to_row;
        int64_t i = 0;
#if defined(CPU_CAPABILITY_AVX512)  // compilers vectorize this only without the strides
        for (; i + WIDTH <= to_row; i += WIDTH) {
            const auto words = [i](const uint16_t* row) {
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i)));
            };
            _mm512_storeu_si512(pairs + i, _mm512_or_si512(words(even), _mm512_slli_epi32(words(odd), 16)));
        }
#endif
        for (; i < to_row; i++) pairs[i] = even[i] | uint32_t(odd[i]) << 16;
    }
}

struct Matrix {
    const char* data;
    int64_t row, column;  // strides in elements
};

// Copies some words of all columns of `right`, or of all rows of `left`, transposed.
template <bool half>
static void copy(Matrix from, char* to, int64_t columns, int64_t word, int64_t end) {
    if (from.column != 1)
        transpose(reinterpret_cast<const float*>(from.data), half ? from.column / 2 : from.column,
                  reinterpret_cast<float*>(to), columns, word, end);
    else
        pair_up(reinterpret_cast<const uint16_t*>(from.data), from.row, reinterpret_cast<uint32_t*>(to), columns, word,
                end);
}

template <bool half>
static void multiply(Product p, Matrix left, Matrix right, char* left_copy, char* right_copy, bool alone) {
    constexpr int64_t size = half ? 2 : 4;
    const bool pairs_left = half && left.column != 1, copies = half || right.column != 1;
    p.left = pairs_left ? left_copy : left.data;
    p.left_row = pairs_left ? 4 : left.row * size;
    p.left_word = pairs_left ? 4 * p.rows : left.column * 4;
    p.right = reinterpret_cast<const float*>(copies ? right_copy : right.data);
    p.right_word = copies ? p.columns : right.row;
    const int64_t tiles = (p.rows + ROWS - 1) / ROWS, pieces = (p.words + WIDTH - 1) / WIDTH;
#pragma omp parallel if (!alone)
    {
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const bool by_columns = copies && !p.adam && p.columns >= 4 * threads * WIDTH;
        if (pairs_left || (copies && !by_columns)) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < pieces; i++) {
                const int64_t word = i * WIDTH, end = std::min(p.words, word + WIDTH);
                if (pairs_left) copy<half>({left.data, left.column, 1}, left_copy, p.rows, word, end);
                if (copies && !by_columns) copy<half>(right, right_copy, p.columns, word, end);
            }
        }
        if (by_columns) {  // each thread copies the columns that it uses, in parts that fit into its cache
            const int64_t vectors = (p.columns + WIDTH - 1) / WIDTH;
            const int64_t last = std::min(p.columns, vectors * (thread + 1) / threads * WIDTH);
            for (int64_t column = vectors * thread / threads * WIDTH, width; column < last; column += width) {
                Product part = p;
                part.columns = part.right_word = width = next_width(last - column);
                char* const of_part = right_copy + column * p.words * 4;
                part.right = reinterpret_cast<const float*>(of_part);
                part.out += p.transposed ? column * p.out_row : column;
                if (p.bias && !p.transposed) part.bias += column;
                copy<half>({right.data + column * right.column * size, right.row, right.column}, of_part, part.columns, 0,
                           p.words);
                rows_of<half>(part, 0, p.rows);
            }
        } else {
            const int64_t end = std::min(p.rows, tiles * (thread + 1) / threads * ROWS);
            for (int64_t row = tiles * thread / threads * ROWS; row < end; row += BLOCK)
                rows_of<half>(p, row, std::min(end, row + BLOCK));
        }
    }
}

extern "C" void kernel(float* out, const char* left, const char* right, const float* bias, const int64_t* update,
                       char* left_copy, char* right_copy, int64_t rows, int64_t columns, int64_t inner, int64_t left_row,
                       int64_t left_column, int64_t right_row, int64_t right_column, int64_t biased,
                       int64_t activation, int64_t transposed) {
    constexpr bool half = HALF;
    Product p{};
    p.adam = Adam(update);
    p.bias = biased ? bias : nullptr, p.out = out, p.out_row = columns, p.activation = activation;
    p.transposed = transposed, p.words = half ? inner / 2 : inner;
    p.rows = transposed ? columns : rows, p.columns = transposed ? rows : columns;
    Matrix first{left, left_row, left_column}, second{right, right_row, right_column};
    if (transposed) first = {right, right_column, right_row}, second = {left, left_column, left_row};
    const bool alone = rows * columns * inner <= SMALL;
#if !defined(CPU_CAPABILITY_AVX512) || !defined(__AVX512BF16__)
    if (half) throw std::runtime_error("compiled for a processor that does not multiply bfloat16");
#endif
    multiply<half>(p, first, second, left_copy, right_copy, alone);
}
