#include "attack.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct attack *const TABLES[] = {resources, shared, escapes, kernel, leaks,
                                              network, tampering, leftovers, prestart};

/* ---- no attacks: the program that must still run, and tidying up ---- */

static void hello(void)
{
    puts("hello");
}

/* An attack may have removed permissions. */
static int open_folder(const char *path)
{
    struct stat about;
    if (lstat(path, &about) == 0 && S_ISDIR(about.st_mode))
        chmod(path, 0700);
    return 0;
}

static void empty(const char *folder)
{
    char command[4096];
    DIR *entries = opendir(folder);
    struct dirent *entry;
    if (!entries || chdir(folder) < 0)
        return;
    while ((entry = readdir(entries))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(command, sizeof command, "%s", entry->d_name);
        open_folder(command);
        if (unlink(command) < 0 && rmdir(command) < 0) {
            empty(command);
            if (chdir("..") < 0)
                break;
            rmdir(command);
        }
    }
    closedir(entries);
}

/* Removes all that attacks left in writable places. */
static void tidy(void)
{
    char workspace[4096];
    if (!getcwd(workspace, sizeof workspace))
        return;
    empty(workspace);
    empty("/tmp");
    empty("/var/tmp");
    empty("/dev/shm");
}

static const struct attack SERVICES[] = {{"hello", hello}, {"tidy", tidy}, {NULL, NULL}};

static bool run_from(const struct attack *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0) {
            table->run();
            return true;
        }
    return false;
}

static void list(void)
{
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++)
        for (const struct attack *attack = TABLES[i]; attack->name; attack++)
            puts(attack->name);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        list();
        return 0;
    }
    if (argc != 2)
        return 64;
    if (run_from(SERVICES, argv[1]))
        return 0;
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++)
        if (run_from(TABLES[i], argv[1]))
            return 0;
    fprintf(stderr, "no such attack: %s\n", argv[1]);
    return 64;
}
