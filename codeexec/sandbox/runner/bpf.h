/*
 * Programs for the kernel that decide about system calls. The numbers are those of linux/filter.h and
 * linux/seccomp.h, which musl doesn't have.
 */
#ifndef BPF_H
#define BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>

struct bpf_call { /* what a program can read */
    int number;
    uint32_t arch;
    uint64_t ip, args[6];
};
struct bpf_instruction {
    uint16_t code;
    uint8_t then, otherwise; /* how many of the next instructions are skipped */
    uint32_t value;
};
enum { BPF_LOAD = 0x20, BPF_AND = 0x54, BPF_RETURN = 0x06 };
enum bpf_test { BPF_ALWAYS, BPF_EQUAL = 0x15, BPF_ANY_BIT = 0x45 };
enum { BPF_ALLOW = 0x7fff0000, BPF_REFUSE = 0x00050000 /* and the errno, or 0 for success */ };

#if defined __x86_64__
#define BPF_NUMBER_BITS 0xbfffffffu /* without the bit that makes a call one of x32's */
#else
#define BPF_NUMBER_BITS 0xffffffffu
#endif

struct bpf_rule {
    uint32_t number; /* of the system call */
    int error;
    enum bpf_test test;
    int argument; /* only its lower half is tested: the kernel, too, takes these as 32 bits */
    uint32_t value;
};
enum { BPF_RULE_LENGTH = 6, BPF_LOAD_NUMBER_LENGTH = 2 };

static inline struct bpf_instruction *bpf_load_number(struct bpf_instruction *at)
{
    *at++ = (struct bpf_instruction){BPF_LOAD, 0, 0, offsetof(struct bpf_call, number)};
    *at++ = (struct bpf_instruction){BPF_AND, 0, 0, BPF_NUMBER_BITS};
    return at;
}

/* Expects the call's number to be loaded and leaves it so. BPF_RULE_LENGTH instructions at most, and
 * exactly so many where there is a test. */
static inline struct bpf_instruction *bpf_add_rule(struct bpf_instruction *at, struct bpf_rule rule)
{
    const bool tests = rule.test != BPF_ALWAYS;
    const uint8_t length = tests ? BPF_RULE_LENGTH : 2;
    *at++ = (struct bpf_instruction){BPF_EQUAL, 0, length - 1, rule.number};
    if (tests) {
        uint32_t argument = (uint32_t)(offsetof(struct bpf_call, args) + 8 * (size_t)rule.argument);
        *at++ = (struct bpf_instruction){BPF_LOAD, 0, 0, argument};
        *at++ = (struct bpf_instruction){(uint16_t)rule.test, 0, 1, rule.value};
    }
    *at++ = (struct bpf_instruction){BPF_RETURN, 0, 0, BPF_REFUSE | (uint32_t)rule.error};
    return tests ? bpf_load_number(at) : at;
}

/* For the rest of this process's life, and for what it starts. False where the kernel refuses it. */
static inline bool bpf_apply(struct bpf_instruction *first, const struct bpf_instruction *end)
{
    const struct {
        unsigned short length;
        struct bpf_instruction *first;
    } program = {(unsigned short)(end - first), first};
    enum { MODE_FILTER = 2 };
    return prctl(PR_SET_SECCOMP, MODE_FILTER, &program) == 0;
}

#endif
