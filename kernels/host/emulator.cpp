// Runs kernels on the CPU: see cuda_shim.h.
//
// emulator_launch is what a launch through the driver is: a kernel's name, the grid, the block, bytes of shared memory, and
// pointers to the arguments.

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_shim.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
extern "C" void __asan_unpoison_memory_region(const volatile void* from, size_t size);
#endif

#if defined(__x86_64__)
// switch_stack(&from, to): keeps what a call must keep, leaves the stack's address in `from`, and goes on on `to`.
extern "C" void switch_stack(void** from, void* to);
asm(R"(
.text
.globl switch_stack
.type switch_stack, @function
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size switch_stack, .-switch_stack
)");
#else
#include <ucontext.h>
#endif

namespace emulator {
namespace {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr int WARP = 32;

struct Copy {
    void* to;
    unsigned char bytes[16];
};

struct Warp {
    // Lanes that have come to the operation that the warp is at, and the one before it.
    uint32_t arrived = 0, mask = 0;
    unsigned generation = 0;
    int left = 0;
    // By the parity of the generation: a lane may be one operation ahead, never two.
    unsigned char slots[2][WARP][64];
};

struct Fiber {
    Thread thread;
    std::unique_ptr<unsigned char[]> stack;
    void* stack_pointer = nullptr;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
    void* fake_stack = nullptr;
    bool done = false;
    // What it waits for: a generation of the block's barrier, or of its warp.
    bool at_block = false, at_warp = false;
    unsigned waits_for = 0;
    int lane = 0;
    Warp* warp = nullptr;
    std::vector<Copy> open_copies;
    std::vector<std::vector<Copy>> groups;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Fiber* running = nullptr;
    void* scheduler_stack = nullptr;
#if !defined(__x86_64__)
    ucontext_t scheduler_context;
#endif
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_bottom = nullptr;
    size_t scheduler_size = 0;
    std::unique_ptr<unsigned char[]> shared;
    unsigned barrier_generation = 0;
    unsigned at_barrier = 0, live = 0;
    const char* kernel = "";
    Launcher launcher = nullptr;
    void** arguments = nullptr;
};

thread_local Block block;

struct Kernel {
    std::string signature;
    Launcher launcher;
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

void to_scheduler() {
    Fiber& fiber = *block.running;
#if defined(SANITIZED)
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, block.scheduler_bottom, block.scheduler_size);
#endif
#if defined(__x86_64__)
    switch_stack(&fiber.stack_pointer, block.scheduler_stack);
#else
    swapcontext(&fiber.context, &block.scheduler_context);
#endif
#if defined(SANITIZED)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &block.scheduler_bottom, &block.scheduler_size);
#endif
}

void enter() {
#if defined(SANITIZED)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_bottom, &block.scheduler_size);
#endif
    block.launcher(block.arguments);
    Fiber& fiber = *block.running;
    if (!fiber.open_copies.empty() || !fiber.groups.empty()) {
        fail("a thread ends before its copies have come");
    }
    fiber.done = true;
    to_scheduler();
    std::abort(); // a thread that is done does not go on
}

void prepare(Fiber& fiber) {
    if (!fiber.stack) {
        fiber.stack.reset(new unsigned char[STACK_BYTES]);
    }
#if defined(SANITIZED)
    // A thread that is done has not returned from its first functions: the marks around what they had on the stack are still there.
    __asan_unpoison_memory_region(fiber.stack.get(), STACK_BYTES);
#endif
#if defined(__x86_64__)
    // As switch_stack leaves it: six registers, the return address; the stack is aligned to 16 before a call.
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + STACK_BYTES) & ~uintptr_t{63};
    auto* place = reinterpret_cast<void**>(top);
    *--place = nullptr;
    *--place = reinterpret_cast<void*>(&enter);
    for (int at = 0; at < 6; at++) {
        *--place = nullptr;
    }
    fiber.stack_pointer = place;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
#endif
    fiber.fake_stack = nullptr;
    fiber.done = fiber.at_block = fiber.at_warp = false;
    fiber.open_copies.clear();
    fiber.groups.clear();
}

bool may_run(const Fiber& fiber) {
    if (fiber.done) {
        return false;
    }
    if (fiber.at_block) {
        return block.barrier_generation != fiber.waits_for;
    }
    return !fiber.at_warp || fiber.warp->generation != fiber.waits_for;
}

void run(Fiber& fiber) {
    fiber.at_block = fiber.at_warp = false;
    block.running = &fiber;
#if defined(SANITIZED)
    __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fiber.stack.get(), STACK_BYTES);
#endif
#if defined(__x86_64__)
    switch_stack(&block.scheduler_stack, fiber.stack_pointer);
#else
    swapcontext(&block.scheduler_context, &fiber.context);
#endif
#if defined(SANITIZED)
    __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
    if (fiber.done) {
        block.live--;
        // Threads that have ended count as having come to a barrier, as on a device.
        if (block.live > 0 && block.at_barrier == block.live) {
            block.at_barrier = 0;
            block.barrier_generation++;
        }
    }
}

// A small generator (xorshift) is enough to shuffle threads.
uint64_t next_random(uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

void run_block(dim3 index, dim3 grid, dim3 size, unsigned shared_bytes, uint64_t& random) {
    const unsigned threads = size.x * size.y * size.z;
    block.fibers.resize(std::max<size_t>(block.fibers.size(), threads));
    block.warps.assign((threads + WARP - 1) / WARP, Warp{});
    block.shared.reset(new unsigned char[shared_bytes]);
    std::memset(block.shared.get(), 0xff, shared_bytes); // NaN in every float type
    block.live = threads;
    block.at_barrier = 0;
    std::vector<unsigned> order(threads);
    for (unsigned at = 0; at < threads; at++) {
        Fiber& fiber = block.fibers[at];
        const dim3 thread{at % size.x, at / size.x % size.y, at / (size.x * size.y)};
        fiber.thread = {thread, index, size, grid};
        fiber.lane = static_cast<int>(at % WARP);
        fiber.warp = &block.warps[at / WARP];
        prepare(fiber);
        order[at] = at;
    }
    while (block.live > 0) {
        if (random != 0) {
            for (unsigned at = threads - 1; at > 0; at--) {
                std::swap(order[at], order[next_random(random) % (at + 1)]);
            }
        }
        bool moved = false;
        for (unsigned at : order) {
            if (may_run(block.fibers[at])) {
                run(block.fibers[at]);
                moved = true;
            }
        }
        if (!moved) {
            fail("threads wait for each other: a barrier or an operation of a warp that not all of them reach");
        }
    }
    block.shared.reset();
}

} // namespace

void add_kernel(const char* name, std::string signature, Launcher launcher) {
    kernels()[name] = {std::move(signature), launcher};
}

const Thread& current() { return block.running->thread; }
void* dynamic_shared() { return block.shared.get(); }
int lane() { return block.running->lane; }

void fail(const char* problem) {
    const Thread thread = block.running ? block.running->thread : Thread{};
    std::fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", block.kernel,
                 thread.block_index.x, thread.block_index.y, thread.block_index.z, thread.thread_index.x,
                 thread.thread_index.y, thread.thread_index.z, problem);
    std::abort();
}

void block_barrier() {
    Fiber& fiber = *block.running;
    fiber.waits_for = block.barrier_generation;
    if (++block.at_barrier == block.live) {
        block.at_barrier = 0;
        block.barrier_generation++;
    }
    // Also where it is the last: who comes first after a barrier is not to be relied on.
    fiber.at_block = true;
    to_scheduler();
}

const unsigned char* exchange(uint32_t mask, const void* mine, size_t bytes) {
    Fiber& fiber = *block.running;
    Warp& warp = *fiber.warp;
    if (!((mask >> fiber.lane) & 1)) {
        fail("a lane is not in the mask of its own operation");
    }
    if (warp.arrived == 0) {
        warp.mask = mask;
    } else if (warp.mask != mask) {
        fail("lanes of a warp come to an operation with different masks");
    }
    const unsigned generation = warp.generation;
    std::memcpy(warp.slots[generation % 2][fiber.lane], mine, bytes);
    warp.arrived |= 1u << fiber.lane;
    if (warp.arrived == mask) {
        warp.arrived = 0;
        warp.generation++;
    }
    fiber.waits_for = generation;
    fiber.at_warp = true;
    to_scheduler();
    return warp.slots[generation % 2][0];
}

void warp_barrier(uint32_t mask) {
    const unsigned char nothing = 0;
    exchange(mask, &nothing, 1);
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct Fragment {
        uint32_t a[4], b[2];
    } mine;
    std::memcpy(mine.a, a, sizeof mine.a);
    std::memcpy(mine.b, b, sizeof mine.b);
    const unsigned char* all = exchange(0xffffffffu, &mine, sizeof mine);
    const auto value = [](uint32_t pair, int half) {
        return __bfloat162float(__nv_bfloat16{static_cast<uint16_t>(half ? pair >> 16 : pair)});
    };
    const auto fragment = [&](int lane) {
        Fragment of_lane;
        std::memcpy(&of_lane, all + 64 * lane, sizeof of_lane);
        return of_lane;
    };
    const int group = lane() / 4, in_group = lane() % 4;
    double sums[4] = {d[0], d[1], d[2], d[3]};
    for (int inner = 0; inner < 16; inner++) {
        const int from = inner % 8 / 2, half = inner % 2, upper = inner / 8;
        for (int at = 0; at < 4; at++) {
            const int column = 2 * in_group + at % 2;
            // Row `group` or `group + 8` of a is with the lanes of `group`, column `column` of b with those of `column`.
            const float left = value(fragment(4 * group + from).a[2 * upper + at / 2], half);
            const float right = value(fragment(4 * column + from).b[upper], half);
            sums[at] += static_cast<double>(left) * right;
        }
    }
    for (int at = 0; at < 4; at++) {
        d[at] = static_cast<float>(sums[at]);
    }
}

void load_matrices(uint32_t (&to)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        fail("a row of a matrix is not aligned to 16 bytes");
    }
    uint16_t mine[8];
    std::memcpy(mine, row, sizeof mine);
    const unsigned char* all = exchange(0xffffffffu, mine, sizeof mine);
    const int group = lane() / 4, in_group = lane() % 4;
    const auto value = [&](int matrix, int at_row, int column) {
        uint16_t values[8];
        std::memcpy(values, all + 64 * (8 * matrix + at_row), sizeof values);
        return static_cast<uint32_t>(values[column]);
    };
    for (int matrix = 0; matrix < 4; matrix++) {
        const int first = 2 * in_group;
        to[matrix] = transposed ? value(matrix, first, group) | value(matrix, first + 1, group) << 16
                                : value(matrix, group, first) | value(matrix, group, first + 1) << 16;
    }
}

void copy_async(void* to, const void* from, bool valid) {
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
        fail("an asynchronous copy is not aligned to 16 bytes");
    }
    Copy copy{to, {}};
    if (valid) {
        std::memcpy(copy.bytes, from, sizeof copy.bytes);
    }
    std::memset(to, 0xff, sizeof copy.bytes);
    block.running->open_copies.push_back(copy);
}

void commit_copies() {
    Fiber& fiber = *block.running;
    fiber.groups.push_back(std::move(fiber.open_copies));
    fiber.open_copies.clear();
}

void wait_copies(int pending) {
    auto& groups = block.running->groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        for (const Copy& copy : groups.front()) {
            std::memcpy(copy.to, copy.bytes, sizeof copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

} // namespace emulator

// 0, or 1 where there is no such kernel, 2 where its arguments are of other kinds. `seed` shuffles threads and blocks; 0 leaves them in order.
extern "C" int emulator_launch(const char* name, const char* kinds, const unsigned* grid, const unsigned* size,
                               unsigned shared_bytes, void** arguments, uint64_t seed) {
    using namespace emulator;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        return 1;
    }
    if (found->second.signature != kinds) {
        return 2;
    }
    block.kernel = name;
    block.launcher = found->second.launcher;
    block.arguments = arguments;
    const dim3 grid_size{grid[0], grid[1], grid[2]}, block_size{size[0], size[1], size[2]};
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    std::vector<unsigned> order(blocks);
    for (unsigned at = 0; at < blocks; at++) {
        order[at] = at;
    }
    uint64_t random = seed;
    if (seed != 0) {
        for (unsigned at = blocks; at > 1; at--) {
            std::swap(order[at - 1], order[next_random(random) % at]);
        }
    }
    for (unsigned at : order) {
        run_block({at % grid[0], at / grid[0] % grid[1], at / (grid[0] * grid[1])}, grid_size, block_size, shared_bytes, random);
    }
    block.running = nullptr;
    return 0;
}
