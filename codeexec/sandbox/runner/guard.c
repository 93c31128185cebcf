/*
 * What programs may not ask the kernel to do to the runner: processes of one user can limit and slow
 * each other, and one that takes its processor time from process 1 ends its whole sandbox. What the
 * runner is given, such as processors to run on, later programs inherit.
 *
 * The profile in ../seccomp.py refuses the same, and this filter as well. Where the daemon applies no
 * profile, or the kernel is gVisor's, this one holds, which programs inherit.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* As in linux/seccomp.h and linux/filter.h, which musl doesn't bring. */
struct data {
    int nr;
    uint32_t arch;
    uint64_t ip, args[6];
};
struct instruction {
    uint16_t code;
    uint8_t then, otherwise; /* instructions to be skipped */
    uint32_t k;
};
struct filter {
    unsigned short length;
    struct instruction *first;
};
enum { LOAD = 0x20, AND = 0x54, IS = 0x15, ANSWER = 0x06 };
enum { MODE_FILTER = 2, ALLOW = 0x7fff0000, REFUSE = 0x00050000 };
enum { RUNNER = 1, OF_USER = 2, IO_OF_USER = 3 };

#if defined __x86_64__
enum { OTHER_IOPRIO_SET = 289, OTHER_PRLIMIT = 340, OTHER_SCHED_SETATTR = 351 };
#define OWN_ARCH 0xc000003eu
#define OTHER_ARCH 0x40000003u  /* i386 */
#define CALL_BITS 0xbfffffffu   /* without the bit that makes a call one of x32's */
#else
enum { OTHER_IOPRIO_SET = 314, OTHER_PRLIMIT = 369, OTHER_SCHED_SETATTR = 380 };
#define OWN_ARCH 0xc00000b7u
#define OTHER_ARCH 0x40000028u  /* 32-bit ARM */
#define CALL_BITS 0xffffffffu
#endif

static const struct rule {
    uint32_t own, other; /* the call's number, and its number among 32-bit calls */
    uint8_t argument, value;
} RULES[] = {
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
enum { RULE_COUNT = sizeof RULES / sizeof *RULES, PER_RULE = 6, TABLE = RULE_COUNT * PER_RULE + 3 };

static struct instruction *add_table(struct instruction *at, bool own)
{
    const uint32_t number = offsetof(struct data, nr);
    *at++ = (struct instruction){LOAD, 0, 0, number};
    *at++ = (struct instruction){AND, 0, 0, CALL_BITS};
    for (int i = 0; i < RULE_COUNT; i++) {
        uint32_t argument = (uint32_t)offsetof(struct data, args) + 8u * RULES[i].argument;
        *at++ = (struct instruction){IS, 0, PER_RULE - 1, own ? RULES[i].own : RULES[i].other};
        *at++ = (struct instruction){LOAD, 0, 0, argument};
        *at++ = (struct instruction){IS, 0, 1, RULES[i].value};
        *at++ = (struct instruction){ANSWER, 0, 0, REFUSE | EPERM};
        *at++ = (struct instruction){LOAD, 0, 0, number};
        *at++ = (struct instruction){AND, 0, 0, CALL_BITS};
    }
    *at++ = (struct instruction){ANSWER, 0, 0, ALLOW};
    return at;
}

void guard_runner(void)
{
    struct instruction program[2 * TABLE + 4], *at = program;
    *at++ = (struct instruction){LOAD, 0, 0, offsetof(struct data, arch)};
    *at++ = (struct instruction){IS, 0, TABLE, OWN_ARCH};
    at = add_table(at, true);
    *at++ = (struct instruction){IS, 0, TABLE, OTHER_ARCH};
    at = add_table(at, false);
    *at++ = (struct instruction){ANSWER, 0, 0, ALLOW};
    struct filter filter = {(unsigned short)(at - program), program};
    if (prctl(PR_SET_SECCOMP, MODE_FILTER, &filter) < 0) {
        /* Under the profile, which refuses it, or where NO_NEW_PRIVILEGES says otherwise. */
    }
}
