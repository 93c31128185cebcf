/* What a program leaves behind for later programs, in its session and in others. */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void daemons(void)
{
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            setsid();
            signal(SIGHUP, SIG_IGN);
            signal(SIGTERM, SIG_IGN);
            if (fork() > 0)
                _exit(0);
            for (int fd = 0; fd < 3; fd++)
                close(fd);
            for (;;)
                pause();
        }
    sleep_ms(50);
    held("daemons: eight are left, each in a session of its own");
}

static void zombies(void)
{
    for (int i = 0; i < 10; i++)
        if (fork() == 0)
            _exit(0);
    sleep_ms(50);
    held("zombies: ten are left");
}

static void clean_process(void)
{
    sigset_t blocked;
    int ignored = 0;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    for (int number = 1; number <= SIGRTMAX; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            ignored++;
        if (sigismember(&blocked, number) == 1)
            escaped("signal %d is blocked in a new program", number);
    }
    if (ignored)
        escaped("%d signals are ignored in a new program", ignored);
    else
        held("signals of a new program: as by default");
}

/* Obstacles for the next source file, whose name is a fact. */
static void folder_in_the_way(void)
{
    char path[PATH_MAX];
    const char *name = fact("file");
    unlink(name);
    snprintf(path, sizeof path, "%s/inside", name);
    if (mkdir(name, 0700) < 0 || mkdir(path, 0700) < 0)
        untried("a folder in the way: %s", strerror(errno));
    else
        held("a folder is where the next source file goes");
    chmod(path, 0);
    chmod(name, 0);
}

static void link_in_the_way(void)
{
    const char *name = fact("file");
    int fd = open("/tmp/victim", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "unharmed", 8) != 8)
        untried("a file to be harmed: %s", strerror(errno));
    unlink(name);
    if (symlink("/tmp/victim", name) < 0)
        untried("a link in the way: %s", strerror(errno));
    else
        held("a link is where the next source file goes");
}

static void link_followed(void)
{
    char text[64];
    if (read_file("/tmp/victim", text, sizeof text) <= 0)
        untried("the file behind the link is gone");
    else if (strcmp(text, "unharmed") == 0)
        held("the file behind the link: unharmed");
    else
        escaped("the file behind the link was overwritten");
}

static void fifo_in_the_way(void)
{
    const char *name = fact("file");
    unlink(name);
    if (mkfifo(name, 0600) < 0)
        untried("a FIFO in the way: %s", strerror(errno));
    else
        held("a FIFO is where the next source file goes");
}

/* Where the service puts a compiled program back. */
static bool forge_program(void)
{
    static const char forged[] = "#!/bin/sh\necho forged\n";
    unlink("/tmp/.program");
    int fd = open("/tmp/.program", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    bool done = fd >= 0 && write(fd, forged, sizeof forged - 1) == sizeof forged - 1;
    if (fd >= 0)
        close(fd);
    return done;
}

static void program_in_the_way(void)
{
    bool done = forge_program();
    if (fork() == 0)
        for (;;)
            forge_program();
    if (done)
        held("another program is where a compiled one goes");
    else
        untried("a program in the way: %s", strerror(errno));
}

static void locked_workspace(void)
{
    char workspace[PATH_MAX];
    int fd = open(fact("file"), O_WRONLY | O_CREAT | O_CLOEXEC, 0);
    if (fd < 0 || !getcwd(workspace, sizeof workspace))
        untried("a locked file: %s", strerror(errno));
    fchmod(fd, 0);
    held("the workspace is locked: %s", chmod(workspace, 0) == 0 ? "by its mode" : "not even that");
}

static void system_v(void)
{
    int memory = shmget(0x41545441, 1 << 20, IPC_CREAT | 0666);
    int semaphore = semget(0x41545441, 10, IPC_CREAT | 0666);
    int queue = msgget(0x41545441, IPC_CREAT | 0666);
    struct {
        long type;
        char text[64];
    } message = {1, "left"};
    if (queue >= 0)
        while (msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT) == 0)
            ;
    held("System V: memory %s, semaphores %s, messages %s are left", memory < 0 ? "not" : "too",
         semaphore < 0 ? "not" : "too", queue < 0 ? "not" : "too");
}

static void posix_objects(void)
{
    int memory = shm_open("/attack-left", O_RDWR | O_CREAT, 0666);
    long queue = mq_open("/attack-left", O_RDWR | O_CREAT, 0666, NULL);
    REFUSED("a message queue by its file",
            open("/dev/mqueue/attack-left", O_RDWR | O_CREAT | O_CLOEXEC, 0666), ENOENT);
    held("POSIX: memory %s, messages %s are left", memory < 0 ? "not" : "too",
         queue < 0 ? "not" : "too");
}

static void plant(const char *path)
{
    static const char TEXT[] = "left-by-an-attack";
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd < 0 || write(fd, TEXT, sizeof TEXT - 1) < 0)
        untried("a file at %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void files(void)
{
    plant("attack-left");
    plant("/tmp/attack-left");
    plant("/var/tmp/attack-left");
    plant("/dev/shm/attack-left");
    held("files are left in the workspace, /tmp, /var/tmp and /dev/shm");
}

/* Files that shells, loaders and tools read when they start, in each writable place. */
static void startup_files(void)
{
    static const char *const NAMES[] = {".profile", ".bashrc", ".bash_profile", ".inputrc",
                                        ".gdbinit", ".vimrc", ".gitconfig", ".npmrc",
                                        "ld.so.preload", "libc.so.6", "sh", "env"};
    char path[64];
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        snprintf(path, sizeof path, "/tmp/%s", NAMES[i]);
        plant(path);
        plant(NAMES[i]);
    }
    cannot_write("/etc/ld.so.preload");
    cannot_write("/etc/environment");
    cannot_write("/etc/profile");
    held("start-up files of shells and loaders are left");
}

static void make_parents(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
}

/* Writes the files of the facts `plant <path> <text>`, with \n for the end of a line. */
static void poison(void)
{
    size_t at = 0;
    const char *fact;
    int planted = 0;
    while ((fact = next_fact("plant", &at))) {
        char path[256], text[512];
        size_t length = strcspn(fact, " "), size = 0;
        snprintf(path, sizeof path, "%.*s", (int)length, fact);
        make_parents(path);
        for (const char *c = fact + length + (fact[length] == ' '); *c && size < sizeof text; c++)
            text[size++] = c[0] == '\\' && c[1] == 'n' ? (c++, '\n') : *c;
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
        if (fd < 0 || write(fd, text, size) != (ssize_t)size)
            untried("a file at %s: %s", path, strerror(errno));
        else
            planted++;
        if (fd >= 0)
            close(fd);
    }
    held("start-up files: %d are left", planted);
}

/* Runs in the bystander after each attack of this group, of which it must see nothing. */
static int seen;

static int note_left(const char *path)
{
    if (strstr(path, "attack-left")) {
        seen++;
        escaped("what an attack left is seen by another session: %s", path);
    }
    return 0;
}

static void look_around(void)
{
    static const char *const FOLDERS[] = {".", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"};
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++)
        walk(FOLDERS[i], 2, note_left);
    if (shmget(0x41545441, 0, 0) >= 0 || semget(0x41545441, 0, 0) >= 0 ||
        msgget(0x41545441, 0) >= 0) {
        seen++;
        escaped("System V objects of an attack are seen by another session");
    }
    if (!seen)
        held("nothing that an attack left is seen");
}

const struct attack leftovers[] = {
    {"daemons", daemons},
    {"zombies", zombies},
    {"ignored-signals", clean_process},
    {"folder-in-the-way", folder_in_the_way},
    {"link-in-the-way", link_in_the_way},
    {"fifo-in-the-way", fifo_in_the_way},
    {"program-in-the-way", program_in_the_way},
    {"locked-workspace", locked_workspace},
    {"system-v-objects", system_v},
    {"posix-objects", posix_objects},
    {"left-files", files},
    {"start-up-files", startup_files},
    {"poisoned-workspace", poison},
    {"poisoned-home", poison},
    {"look-around", look_around},
    {"link-followed", link_followed},
    {NULL, NULL},
};
