/*
 * The attacks of `manage.py check_isolation`: `attack <name>` tries one thing that a sandbox must not
 * let happen, and says on stdout, a line for each try, what came of it:
 *
 *     held <what>: <how>       refused, or bounded
 *     escaped <what>: <how>    it was possible
 *     untried <what>: <why>    it could not even be tried, so nothing is known
 *
 * An attack looks whether a door is open and never goes through it: where a protection is missing,
 * nothing outside of the sandbox is changed, and what it takes is bounded by the attack itself.
 *
 * Facts come on stdin as lines of `name value`: limits of the sandbox, addresses and names of the
 * host.
 */
#ifndef ATTACK_H
#define ATTACK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct attack {
    const char *name;
    void (*run)(void);
};

/* Tables, ended by a null name: one for each group, two for ways out and two for resources. */
extern const struct attack resources[], shared[], escapes[], kernel[], leaks[], network[], tampering[],
    leftovers[];

/* report.c */
void held(const char *format, ...) __attribute__((format(printf, 1, 2)));
void escaped(const char *format, ...) __attribute__((format(printf, 1, 2)));
void untried(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What a call that must be refused has returned: held where it failed because it is forbidden or
 * not there at all, untried where it failed for another reason, such as a bad argument. */
void refused(const char *what, long result);
/* The same where `errors`, a list ended by 0, are refusals as well. */
void refused_with(const char *what, long result, const int *errors);
#define REFUSED(what, result, ...) \
    refused_with(what, result, (const int[]){__VA_ARGS__, 0})

const char *fact(const char *name);           /* "" where it was not told */
long long fact_number(const char *name);      /* 0 where it was not told */
const char *next_fact(const char *name, size_t *at); /* each of several; NULL after the last */

/* files.c */
ssize_t read_file(const char *path, char *into, size_t size); /* ended by a zero byte */
void cannot_write(const char *path);                          /* opens it for writing */
void cannot_read(const char *path);
bool contains_word(const char *text, const char *word);
int walk(const char *folder, int depth, int (*visit)(const char *path)); /* until non-zero */
void sleep_ms(long ms);

#endif
