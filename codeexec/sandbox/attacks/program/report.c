#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One write for each line, so that lines from before a process is killed arrive. */
static void report(const char *word, const char *format, va_list arguments)
{
    char line[512];
    int length = snprintf(line, sizeof line, "%s ", word);
    int more = vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    length += more < 0 ? 0 : more;
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    for (int i = 0; i < length; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        _exit(3);
}

#define REPORT_AS(word)                     \
    void word(const char *format, ...)      \
    {                                       \
        va_list arguments;                  \
        va_start(arguments, format);        \
        report(#word, format, arguments);   \
        va_end(arguments);                  \
    }

REPORT_AS(held)
REPORT_AS(escaped)
REPORT_AS(untried)

static const int FORBIDDEN[] = {EPERM, EACCES, EROFS, ENOSYS, 0};

static bool is_one_of(int error, const int *errors)
{
    while (*errors && *errors != error)
        errors++;
    return *errors != 0;
}

void refused_with(const char *what, long result, const int *errors)
{
    int error = errno;
    if (result >= 0)
        escaped("%s: it was allowed", what);
    else if (is_one_of(error, FORBIDDEN) || is_one_of(error, errors))
        held("%s: %s", what, strerror(error));
    else
        untried("%s: %s", what, strerror(error));
}

void refused(const char *what, long result)
{
    refused_with(what, result, (const int[]){0});
}

/* ---- facts ---- */

static char *facts(void)
{
    static char text[65536];
    static bool known;
    if (!known) {
        size_t length = 0;
        ssize_t got;
        while (length < sizeof text - 1 &&
               (got = read(STDIN_FILENO, text + length, sizeof text - 1 - length)) > 0)
            length += (size_t)got;
        known = true;
    }
    return text;
}

const char *next_fact(const char *name, size_t *at)
{
    static char value[512];
    const char *text = facts();
    size_t length = strlen(name);
    while (text[*at]) {
        const char *line = text + *at;
        size_t end = strcspn(line, "\n");
        *at += end + (line[end] == '\n');
        if (strncmp(line, name, length) == 0 && line[length] == ' ') {
            size_t size = end - length - 1;
            if (size >= sizeof value)
                size = sizeof value - 1;
            memcpy(value, line + length + 1, size);
            value[size] = '\0';
            return value;
        }
    }
    return NULL;
}

const char *fact(const char *name)
{
    size_t at = 0;
    const char *value = next_fact(name, &at);
    return value ? value : "";
}

long long fact_number(const char *name)
{
    return strtoll(fact(name), NULL, 10);
}
