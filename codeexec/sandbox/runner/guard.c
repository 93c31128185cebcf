/*
 * Keeps programs from changing the runner: processes of one user can limit and slow down each other,
 * and a program that takes the processor time from process 1 ends its whole sandbox. Later programs
 * would also inherit such changes of the runner, the processors that it may run on for example.
 *
 * The profile in ../seccomp.py refuses the same calls, and refuses to let this filter be installed.
 * Where the daemon applies no profile, or the kernel is gVisor's, this filter holds; programs
 * inherit it.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "bpf.h"

#include <errno.h>
#include <sys/syscall.h>

enum { RUNNER = 1, OF_USER = 2, IO_OF_USER = 3 };

#if defined __x86_64__
enum { OTHER_IOPRIO_SET = 289, OTHER_PRLIMIT = 340, OTHER_SCHED_SETATTR = 351 };
#define OWN_ARCH 0xc000003eu
#define OTHER_ARCH 0x40000003u /* i386 */
#else
enum { OTHER_IOPRIO_SET = 314, OTHER_PRLIMIT = 369, OTHER_SCHED_SETATTR = 380 };
#define OWN_ARCH 0xc00000b7u
#define OTHER_ARCH 0x40000028u /* 32-bit ARM */
#endif

static const struct {
    uint32_t own, other; /* the call's number, and its number among 32-bit calls */
    int argument;
    uint32_t value;
} REFUSED[] = {
    {SYS_prlimit64, OTHER_PRLIMIT, 0, RUNNER},
    {SYS_sched_setscheduler, 156, 0, RUNNER},
    {SYS_sched_setparam, 154, 0, RUNNER},
    {SYS_sched_setattr, OTHER_SCHED_SETATTR, 0, RUNNER},
    {SYS_sched_setaffinity, 241, 0, RUNNER},
    {SYS_setpriority, 97, 1, RUNNER},
    {SYS_setpriority, 97, 0, OF_USER},
    {SYS_ioprio_set, OTHER_IOPRIO_SET, 1, RUNNER},
    {SYS_ioprio_set, OTHER_IOPRIO_SET, 0, IO_OF_USER},
};
enum {
    REFUSED_COUNT = sizeof REFUSED / sizeof *REFUSED,
    TABLE_LENGTH = BPF_LOAD_NUMBER_LENGTH + REFUSED_COUNT * BPF_RULE_LENGTH + 1,
};

static struct bpf_instruction *add_table(struct bpf_instruction *at, bool own)
{
    at = bpf_load_number(at);
    for (int i = 0; i < REFUSED_COUNT; i++) {
        uint32_t number = own ? REFUSED[i].own : REFUSED[i].other;
        at = bpf_add_rule(at, (struct bpf_rule){number, EPERM, BPF_EQUAL, REFUSED[i].argument,
                                                REFUSED[i].value});
    }
    *at++ = (struct bpf_instruction){BPF_RETURN, 0, 0, BPF_ALLOW};
    return at;
}

void guard_runner(void)
{
    struct bpf_instruction program[2 * TABLE_LENGTH + 4], *at = program;
    *at++ = (struct bpf_instruction){BPF_LOAD, 0, 0, offsetof(struct bpf_call, arch)};
    *at++ = (struct bpf_instruction){BPF_EQUAL, 0, TABLE_LENGTH, OWN_ARCH};
    at = add_table(at, true);
    *at++ = (struct bpf_instruction){BPF_EQUAL, 0, TABLE_LENGTH, OTHER_ARCH};
    at = add_table(at, false);
    *at++ = (struct bpf_instruction){BPF_RETURN, 0, 0, BPF_ALLOW};
    if (!bpf_apply(program, at)) {
        /* Under the profile, which refuses it, or where NO_NEW_PRIVILEGES says otherwise. */
    }
}
