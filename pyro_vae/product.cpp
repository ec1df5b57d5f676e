// A matrix product, activation(left right + bias), of matrices that lie in memory as they happen to.
//
// A tile of ROWS x VECTORS vectors of the result stays in registers, while each number of `left` is broadcast against
// vectors of `right`. So the rows of `right` have to be contiguous, and of `left` nothing is asked. Where the columns of
// `right` are, as those of a transposed weight, the transposed product is done instead, and stored transposed. If neither
// fits, the smaller matrix is copied. Libraries copy both into blocks first, which takes as long as a good part of the
// product where one side is a batch of some hundreds.

using Vector = at::vec::Vectorized<float>;
constexpr int64_t WIDTH = Vector::size();
#if defined(CPU_CAPABILITY_AVX512)
constexpr int ROWS = 8, VECTORS = 3;  // 24 of the 32 registers hold sums
#else
constexpr int ROWS = 4, VECTORS = 2;  // 8 of 16
#endif
constexpr int64_t BLOCK = 4 * ROWS;  // rows to which a panel of `right` is applied while it is in the cache
constexpr int64_t SMALL = 100000;    // multiplications that are not worth waking other threads for

struct Product {
    const float *left, *right, *bias;
    float* out;
    int64_t rows, columns, inner, left_row, left_column, right_row, out_row, activation;
    bool transposed;
};

// within 3 units in the last place, and a fraction of the time of the library's. A polynomial near 0, where the other
// form would cancel; its coefficients are those of Cephes (Moshier, 1989).
static inline Vector tanh_of(Vector x) {
    const Vector square = x * x;
    Vector near = Vector(-5.70498872745e-3f);
    for (const float c : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f})
        near = at::vec::fmadd(near, square, Vector(c));
    near = at::vec::fmadd(near * square, x, x);
    const Vector far = Vector(1) - Vector(2) / ((x + x).exp_u20() + Vector(1));
    return Vector::blendv(near, far, x.abs() > Vector(0.625f));
}

static inline Vector activated(Vector x, int64_t activation) {
    if (activation == 1) return tanh_of(x);
    if (activation == 2) return at::vec::maximum(x, Vector(0));  // keeps NaN
    return x;
}

// The last vector ends where the row ends, and so may do some columns once more. Only a row that is shorter than a
// vector needs masks (`narrow`).
template <int rows, int vectors, bool narrow>
static inline __attribute__((always_inline)) void tile(const Product& p, int64_t row, int64_t column) {
    const int64_t count = narrow ? p.columns : WIDTH;
    const int64_t last = narrow ? 0 : std::min((vectors - 1) * WIDTH, p.columns - column - WIDTH);
    const float* left = p.left + row * p.left_row;
    const float* right = p.right + column;
    Vector sums[rows][vectors];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sums[i][v] = Vector(0);
    for (int64_t k = 0; k < p.inner; k++, left += p.left_column, right += p.right_row) {
        Vector of_right[vectors];
        for (int v = 0; v < vectors - 1; v++) of_right[v] = Vector::loadu(right + v * WIDTH);
        of_right[vectors - 1] = narrow ? Vector::loadu(right, count) : Vector::loadu(right + last);
        for (int i = 0; i < rows; i++) {
            const Vector of_left(left[i * p.left_row]);
            for (int v = 0; v < vectors; v++) sums[i][v] = at::vec::fmadd(of_left, of_right[v], sums[i][v]);
        }
    }
    for (int v = 0; v < vectors; v++) {
        const int64_t first = column + (v < vectors - 1 ? v * WIDTH : last);
        float turned[rows][WIDTH];
        for (int i = 0; i < rows; i++) {
            Vector x = sums[i][v];
            if (p.bias) x = x + (p.transposed ? Vector(p.bias[row + i]) : Vector::loadu(p.bias + first, count));
            x = activated(x, p.activation);
            x.store(p.transposed ? turned[i] : p.out + (row + i) * p.out_row + first, count);
        }
        if (p.transposed)
            for (int64_t j = 0; j < count; j++)
                for (int i = 0; i < rows; i++) p.out[(first + j) * p.out_row + row + i] = turned[i][j];
    }
}

template <int vectors, bool narrow>
static void panel(const Product& p, int64_t row, int64_t end, int64_t column) {
    for (; row + ROWS <= end; row += ROWS) tile<ROWS, vectors, narrow>(p, row, column);
    if (row + ROWS / 2 <= end) tile<ROWS / 2, vectors, narrow>(p, row, column), row += ROWS / 2;
    for (; row < end; row++) tile<1, vectors, narrow>(p, row, column);
}

static void rows_of(const Product& p, int64_t row, int64_t end) {
    if (p.columns < WIDTH) return panel<1, true>(p, row, end, 0);
    for (int64_t column = 0; column < p.columns; column += VECTORS * WIDTH) {
        const int64_t rest = p.columns - column;
        if (rest > 2 * WIDTH)
            panel<VECTORS, false>(p, row, end, column);
        else if (rest > WIDTH)
            panel<2, false>(p, row, end, column);
        else
            panel<1, false>(p, row, end, column);
    }
}

// to[j, i] = from[i, j], of a few rows j.
static void transpose(const float* from, int64_t from_row, float* to, int64_t to_row, int64_t j, int64_t end, int64_t rows) {
    for (; j + WIDTH <= end; j += WIDTH) {
        int64_t i = 0;
        for (; i + WIDTH <= rows; i += WIDTH)
            at::vec::transpose_mxn<float, WIDTH, WIDTH>(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
        for (; i < rows; i++)
            for (int64_t v = j; v < j + WIDTH; v++) to[v * to_row + i] = from[i * from_row + v];
    }
    for (; j < end; j++)
        for (int64_t i = 0; i < rows; i++) to[j * to_row + i] = from[i * from_row + j];
}

// `copied`: 0 nothing, 1 right, 2 left; into `copy`.
extern "C" void kernel(float* out, const float* left, const float* right, const float* bias, float* copy, int64_t rows,
                       int64_t columns, int64_t inner, int64_t left_row, int64_t left_column, int64_t right_row,
                       int64_t right_column, int64_t biased, int64_t activation, int64_t transposed, int64_t copied) {
    Product p{left,  right,    biased ? bias : nullptr, out,     rows,       columns,   inner, left_row, left_column,
              right_row, columns, activation,             transposed != 0};
    if (transposed) {
        p.left = right, p.left_row = right_column, p.left_column = right_row;
        p.right = left, p.right_row = left_column;
        p.rows = columns, p.columns = rows;
    }
    if (copied) p.right = copy, p.right_row = p.columns;
    const int64_t tiles = (p.rows + ROWS - 1) / ROWS, pieces = (inner + WIDTH - 1) / WIDTH;
#pragma omp parallel if (rows * columns * inner > SMALL)
    {
        if (copied) {
            const float* from = transposed ? left : right;
            const int64_t from_row = transposed ? left_row : right_column;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < pieces; i++)
                transpose(from, from_row, copy, p.columns, i * WIDTH, std::min(inner, (i + 1) * WIDTH), p.columns);
        }
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64_t end = std::min(p.rows, tiles * (thread + 1) / threads * ROWS);
        for (int64_t row = tiles * thread / threads * ROWS; row < end; row += BLOCK)
            rows_of(p, row, std::min(end, row + BLOCK));
    }
}
