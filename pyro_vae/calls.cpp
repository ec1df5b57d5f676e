// Calls kernels one after the other: of each its address, the number of its arguments, and these.

constexpr size_t MOST_ARGUMENTS = 96;

template <size_t>
using Word = int64_t;

template <size_t... places>
static void call(int64_t address, const int64_t* arguments, std::index_sequence<places...>) {
    reinterpret_cast<void (*)(Word<places>...)>(address)(arguments[places]...);
}

template <size_t count>
static void call_with(int64_t address, const int64_t* arguments) {
    call(address, arguments, std::make_index_sequence<count>{});
}

template <size_t... counts>
static constexpr auto for_each_count(std::index_sequence<counts...>) {
    return std::array<void (*)(int64_t, const int64_t*), sizeof...(counts)>{call_with<counts>...};
}

static constexpr auto callers = for_each_count(std::make_index_sequence<MOST_ARGUMENTS>{});

extern "C" void kernel(const int64_t* words, int64_t from, int64_t to) {
    while (from < to) {
        callers[words[from + 1]](words[from], words + from + 2);
        from += 2 + words[from + 1];
    }
}
