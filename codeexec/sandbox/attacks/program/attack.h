/*
 * The attacks of `manage.py check_isolation`: `attack <name>` tries one thing that a sandbox must
 * prevent, and writes the result of each try to stdout, a line each:
 *
 *     held <what>: <how>       refused, or bounded
 *     escaped <what>: <how>    it was possible
 *     untried <what>: <why>    it could not be tried, so nothing is known
 *
 * An attack only tests whether a way out exists and never uses it: where a protection is missing,
 * nothing outside the sandbox is changed, and the attack itself bounds what it takes.
 *
 * Facts are read from stdin as lines of `name value`: limits of the sandbox, addresses and names of
 * the host.
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

/* Tables that end with a null name: one for each group, two for ways out and two for resources. */
extern const struct attack resources[], shared[], escapes[], kernel[], leaks[], network[], tampering[],
    leftovers[], prestart[];

/* report.c */
void held(const char *format, ...) __attribute__((format(printf, 1, 2)));
void escaped(const char *format, ...) __attribute__((format(printf, 1, 2)));
void untried(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Reports the result of a call that must be refused: held if it failed because it is forbidden or
 * doesn't exist, untried if it failed for another reason, such as a bad argument. */
void refused(const char *what, long result);
/* The same, but `errors`, a list that ends with 0, are refusals as well. */
void refused_with(const char *what, long result, const int *errors);
#define REFUSED(what, result, ...) \
    refused_with(what, result, (const int[]){__VA_ARGS__, 0})

const char *fact(const char *name);           /* "" if it isn't given */
long long fact_number(const char *name);      /* 0 if it isn't given */
const char *next_fact(const char *name, size_t *at); /* the next of several; NULL after the last */

/* files.c */
ssize_t read_file(const char *path, char *into, size_t size); /* ends with a zero byte */
void cannot_write(const char *path);                          /* tries to open it for writing */
void cannot_read(const char *path);
bool contains_word(const char *text, const char *word);
int walk(const char *folder, int depth, int (*visit)(const char *path)); /* until non-zero */
void close_keeping_errno(int fd);                             /* nothing if it is not open */
void sleep_ms(long ms);

#endif
