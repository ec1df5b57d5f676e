// Calls kernels one after the other: of each its address, the number of its arguments, and these. A patch says of which
// word the memory may have moved, to which of the places, and where it is in there.

constexpr size_t MAX_ARGUMENTS = 96;

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

static constexpr auto callers = for_each_count(std::make_index_sequence<MAX_ARGUMENTS>{});

extern "C" void kernel(int64_t* words, int64_t from, int64_t to, const int64_t* patches, int64_t num_patches,
                       const int64_t* places) {
    for (const int64_t* patch = patches; patch < patches + 3 * num_patches; patch += 3)
        words[patch[0]] = places[patch[1]] + patch[2];
    while (from < to) {
        callers[words[from + 1]](words[from], words + from + 2);
        from += 2 + words[from + 1];
    }
}
