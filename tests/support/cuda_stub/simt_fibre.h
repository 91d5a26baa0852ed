/* SPDX-License-Identifier: MIT
 *
 * Switching between the scheduler of a CPU thread and its fibres: a few instructions on x86-64 and 64-bit Arm, ucontext
 * elsewhere. AddressSanitizer is told of every switch. ThreadSanitizer would need a fibre of its own made for every
 * thread of every block: the emulator and its kernels are compiled without it (simt.cmake).
 */
#ifndef SHERD_TESTS_SIMT_FIBRE_H
#define SHERD_TESTS_SIMT_FIBRE_H

#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT__ASAN 1
#endif
#endif
#if defined(SIMT__ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt
{

#if defined(__x86_64__) || defined(__aarch64__)
struct fibre_registers {
    void *stack;
};
#else
struct fibre_registers {
    ucontext_t context;
};
#endif

/* Of a fibre, or of the scheduler (stack: the CPU thread's own). */
struct fibre_context {
    fibre_registers registers;
    char *stack;
    size_t stack_bytes;
    void *sanitizer; /* AddressSanitizer's fake stack */
};

enum : size_t { FIBRE_STACK = 256 * 1024 };

#if defined(__x86_64__)
extern "C" void simt__switch(void **save, void *load);
__asm__(".text\n.p2align 4\n.hidden simt__switch\n.weak simt__switch\n.type simt__switch,@function\nsimt__switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size simt__switch,.-simt__switch\n");
enum { SIMT__FRAME = 6, SIMT__RETURN = 6 };
#elif defined(__aarch64__)
extern "C" void simt__switch(void **save, void *load);
__asm__(
    ".text\n.p2align 4\n.hidden simt__switch\n.weak simt__switch\n.type simt__switch,%function\nsimt__switch:\n"
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
    "stp d14,d15,[sp,#144]\nmov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n.size simt__switch,.-simt__switch\n");
enum { SIMT__FRAME = 20, SIMT__RETURN = 11 };
#endif

/* The next switch to the fibre calls entry, which never returns. */
static inline void fibre_start(fibre_context *fibre, void (*entry)())
{
#if defined(SIMT__ASAN)
    fibre->sanitizer = nullptr;
    __asan_unpoison_memory_region(fibre->stack, fibre->stack_bytes);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    void **top = reinterpret_cast<void **>(fibre->stack + fibre->stack_bytes) - 2; /* 16 bytes aligned at the call */
    top -= SIMT__FRAME;
    for (int i = 0; i < SIMT__FRAME; i++)
        top[i] = nullptr;
    top[SIMT__RETURN] = reinterpret_cast<void *>(entry);
    fibre->registers.stack = top;
#else
    getcontext(&fibre->registers.context);
    fibre->registers.context.uc_stack.ss_sp = fibre->stack;
    fibre->registers.context.uc_stack.ss_size = fibre->stack_bytes;
    makecontext(&fibre->registers.context, entry, 0);
#endif
}

static inline void fibre_switch(fibre_context *from, fibre_context *to)
{
#if defined(SIMT__ASAN)
    __sanitizer_start_switch_fiber(&from->sanitizer, to->stack, to->stack_bytes);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    simt__switch(&from->registers.stack, to->registers.stack);
#else
    swapcontext(&from->registers.context, &to->registers.context);
#endif
#if defined(SIMT__ASAN)
    __sanitizer_finish_switch_fiber(from->sanitizer, nullptr, nullptr);
#endif
}

/* First thing in a fibre: where the scheduler's stack lies. */
static inline void fibre_entered(fibre_context *scheduler)
{
#if defined(SIMT__ASAN)
    const void *bottom;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &scheduler->stack_bytes);
    scheduler->stack = static_cast<char *>(const_cast<void *>(bottom));
#else
    (void)scheduler;
#endif
}

/* A page nobody may touch lies below the stack. */
static inline bool fibre_create(fibre_context *fibre)
{
    enum : size_t { PAGE = 64 * 1024 };
    void *at =
        mmap(nullptr, PAGE + FIBRE_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, PAGE, PROT_NONE) != 0)
        return false;
    fibre->stack = static_cast<char *>(at) + PAGE;
    fibre->stack_bytes = FIBRE_STACK;
    return true;
}

static inline void fibre_destroy(fibre_context *fibre)
{
    enum : size_t { PAGE = 64 * 1024 };
#if defined(SIMT__ASAN)
    __asan_unpoison_memory_region(fibre->stack, fibre->stack_bytes); /* the next mapping may be here */
#endif
    munmap(fibre->stack - PAGE, PAGE + fibre->stack_bytes);
}

} // namespace simt

#endif
