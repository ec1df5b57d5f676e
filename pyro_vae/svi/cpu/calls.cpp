// Replays kernel calls. `launch_args` has for each call the kernel's address, the number of its arguments, and these. A
// relocation updates an address among them: its position, the number of its base pointer, and the offset in bytes.

constexpr size_t MAX_ARGUMENTS = 96;

template <size_t>
using Word = int64_t;

template <size_t... indices>
static void call(int64_t address, const int64_t* arguments, std::index_sequence<indices...>) {
    reinterpret_cast<void (*)(Word<indices>...)>(address)(arguments[indices]...);
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

extern "C" void kernel(int64_t* launch_args, int64_t from, int64_t to, const int64_t* relocations,
                       int64_t num_relocations, const int64_t* base_pointers) {
    for (const int64_t* entry = relocations; entry < relocations + 3 * num_relocations; entry += 3)
        launch_args[entry[0]] = base_pointers[entry[1]] + entry[2];
    while (from < to) {
        callers[launch_args[from + 1]](launch_args[from], launch_args + from + 2);
        from += 2 + launch_args[from + 1];
    }
}
