/*
 * The runner: PID 1 of every sandbox, an unprivileged process without a capability.
 *
 * A client attaches to the container's stdin and stdout and exchanges frames; ../client/protocol.py
 * describes them in full. In short: `u8 type | u32 run id | u32 length | payload | u8 0`, numbers
 * big-endian. A connection begins with the secret token and a nonce, recognised anywhere in the input.
 *
 *     main.c             start, the poll loop, what each frame asks for
 *     protocol.c         both buffers: frames and tokens in, frames out
 *     launch.c           what a client wants to be started, and the process that becomes it
 *     standby.c          an interpreter that has started before its program is wanted
 *     run.c              one program: start, feed, watch, end, report
 *     workspace.c        files that a client writes
 *     workspace_query.c  answers about the workspace, on stderr, while programs run
 *     inputs.c           the fingerprint of all that a compiler could read
 *     compiled.c         the program that a compiler has made, for a client that keeps it
 *     limits.c           memory and processor time that a run, and all programs, have used
 *     clock.c            the time, and the runner's own processor time
 *     guard.c            system calls that programs may not use on the runner
 *     gvisor.c           what else programs must be kept from where the kernel is gVisor's
 *     bpf.h              filters of system calls, for guard.c and gvisor.c
 *     blake2b.h          the hash of fingerprints
 */
#ifndef RUNNER_H
#define RUNNER_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL_VERSION 3
#define TOKEN_BYTES 16
#define NONCE_BYTES 16
#define HEADER_BYTES 9
#define FRAME_BYTES(payload) (HEADER_BYTES + (size_t)(payload) + 1)
#define MAX_PAYLOAD (256 * 1024)
#define STDIN_WINDOW (64 * 1024)
#define FINGERPRINT_BYTES 32
#ifndef PROGRAM_FOLDER /* see PROGRAM_PATH in ../types.py */
#define PROGRAM_FOLDER "/tmp"
#define PROGRAM_NAME ".program"
#endif
#define QUERY_PATH_BYTES 3072 /* so short that a query is written to a pipe in one piece */

enum client_frame { /* client to runner */
    CLIENT_FILE = 'F',      /* u32 mode, path: create or replace, what follows goes there */
    CLIENT_FILE_DATA = 'D', /* bytes of that file */
    CLIENT_SYNC = 'Y',      /* answer RUNNER_SYNCED once everything before it is done */
    CLIENT_STANDBY = 'P',   /* keep a process ready for such an EXEC, see standby_configure() */
    CLIENT_FINGERPRINT = 'H', /* remove the program, see compiled_fingerprint() */
    CLIENT_FETCH = 'T',     /* the program, see compiled_send() */
    CLIENT_PROGRAM = 'W',   /* u32 mode: replace the program by what follows as CLIENT_FILE_DATA */
    CLIENT_EXEC = 'X',      /* run a program, see order_parse() */
    CLIENT_STDIN = 'I',     /* bytes for its stdin, never more than was granted */
    CLIENT_STDIN_EOF = 'E',
    CLIENT_KILL = 'K',
};

enum runner_frame { /* runner to client */
    RUNNER_ACK = 'A', /* nonce, u8 protocol version */
    RUNNER_SYNCED = 'Y',
    RUNNER_STDOUT = 'o',
    RUNNER_STDERR = 'e',
    RUNNER_PRIMED = 'P', /* u8 1: a process is ready; u64 bytes it takes; or 0, and why */
    RUNNER_FINGERPRINT = 'H', RUNNER_PROGRAM = 'T', /* see compiled.c */
    RUNNER_CONTENT = 'D', /* of the program; an empty one is the last */
    RUNNER_BEGUN = 'B',  /* on its way before the program is started */
    RUNNER_GRANT = 'G',  /* u32: so many more bytes of stdin may be sent */
    RUNNER_RESULT = 'R', /* see report() in run.c; ends the run */
    RUNNER_FAILED = '!', /* u8 stage, u32 errno, u32 number of the file; then this run id is ignored */
};

enum query_kind { /* see `QueryKind` in ../client/protocol.py */
    QUERY_LIST = 'L',
    QUERY_CONTENTS = 'C',
    QUERY_FILE = 'R',
    QUERY_FIGURES = 'U',
    QUERY_KEEP = 'K',
};

enum answer_frame { /* on stderr, besides RUNNER_ACK */
    ANSWER_ENTRY = 'N',   /* u8 type, u8 1 when its content follows, u32 mode, u64 size, u64 mtime ns, path */
    ANSWER_CONTENT = 'D', /* bytes of that file */
    ANSWER_FIGURES = 'U', /* see show_figures() in workspace_query.c */
    ANSWER_END = 'Z',     /* u32 errno, u8 1 when there is more than was asked for */
};

enum stage { STAGE_FILE = 1, STAGE_EXEC = 2, STAGE_PROTOCOL = 3, STAGE_PROGRAM = 4 };

struct frame {
    uint8_t type;
    uint32_t id;
    uint32_t length;
    const unsigned char *payload;
};

/* Ends nothing. At most `number` entries (or seconds) and `bytes` of content are asked for. */
struct workspace_query {
    unsigned char nonce[NONCE_BYTES];
    uint8_t kind;
    uint32_t number;
    uint64_t bytes;
    char path[QUERY_PATH_BYTES + 1];
};

/* protocol.c */
typedef void hello_handler(const unsigned char nonce[NONCE_BYTES]);
typedef void query_handler(const struct workspace_query *query);
bool token_take(void); /* from the environment, wiping it there; false when it is no token */
void token_wipe(void); /* in a child, before a program could read its memory */
bool in_has_room(void);
bool in_read(hello_handler *on_hello, query_handler *on_query); /* false: the input has ended */
bool in_next(struct frame *frame, bool *broken);
void in_ignore_until_hello(void);
uint32_t load_u32(const unsigned char *at);
uint64_t load_u64(const unsigned char *at);
void store_u32(unsigned char *at, uint32_t value);
void store_u64(unsigned char *at, uint64_t value);
int64_t out_due_ns(void); /* when to call out_flush(); 0: now, -1: there is nothing */
bool out_due(void);
int64_t out_taken_ns(void); /* when a client last read from it */
size_t out_room(void); /* for program output; a reserve for other frames is kept out of it */
bool out_frame(uint8_t type, uint32_t id, const void *payload, size_t length);
ssize_t out_frame_from(int fd, uint8_t type, uint32_t id, size_t at_most);
void out_drop(void);
bool out_flush(void); /* false: the output is gone */

/* launch.c */
#define MAX_STRINGS 8192
/* What CLIENT_EXEC holds: u32 wall ms, u64 cap of stdout, u64 of stderr, u16 number of arguments,
 * u16 number of variables; then, each ended by a zero byte, cwd, arguments, `NAME=value`; then, unless
 * there is none, u8 options and, unless there is no limit of processor time, u32 ms of it. */
struct order {
    int64_t wall_ns;
    uint64_t cpu_ns; /* 0: no limit */
    unsigned options;
    uint64_t caps[2];
    const char *cwd;
    size_t own_variables; /* the client's, which come first in env */
    char *argv[MAX_STRINGS + 1], *env[MAX_STRINGS + 1];
};
#define PROGRAM_SCORE "1000" /* see oom_score_adj */
bool order_parse(struct order *order, const unsigned char *payload, size_t length);
_Noreturn void become_program(const struct order *order, const int fds[3], int failure_fd,
                              const char *oom_score);
int open_pipes(int (*pipes)[2], size_t count); /* 0 or errno */
void close_pipes(int (*pipes)[2], size_t count);
void close_fd(int *fd);

/* standby.c */
enum standby_kind { STANDBY_FORK = 1, STANDBY_ONCE = 2 };
enum { STANDBY_POLL_FDS = 2 };
struct standby_run { /* a process that has become a program, if it says so */
    pid_t child;
    int socket;      /* it says 'R': it has started; 'G': it is the program now; 'C': it can't be */
    int pipes[3][2]; /* its stdin, stdout, stderr */
    uint64_t cpu_ns; /* that it had used before */
};
/* Payload: u8 kind, names of modules to load with commas between them, u8 0, then as CLIENT_EXEC. */
int standby_configure(uint32_t id, const unsigned char *payload, size_t length); /* 0 or errno */
void standby_forget_client(void); /* another one has come, which didn't ask */
bool standby_take(const struct order *order, struct standby_run *taken);
void standby_advance(void); /* while no program runs */
int64_t standby_due_ns(void); /* when to call it at the latest; -1: no need */
bool standby_reaped(pid_t gone); /* whether it was one of its processes */
pid_t standby_spared(void); /* the process that outlives programs, or 0 */
unsigned standby_reserved(void); /* processes that the container's limit has for it */
unsigned standby_threads(void); /* of processes that wait for a program */
void standby_resume(void); /* a program, or its end, may have stopped that */
void standby_poll_fds(struct pollfd fds[STANDBY_POLL_FDS]);
void standby_poll_results(const struct pollfd fds[STANDBY_POLL_FDS]);

/* run.c */
enum cause { BY_ITSELF = 0, BY_CLOCK, BY_OUTPUT, BY_CLIENT };
enum { RUN_POLL_FDS = 4 };
bool run_active(void); /* until its result was sent */
bool run_unclean(void);
int run_start(uint32_t id, const unsigned char *payload, size_t length); /* 0 or errno */
bool run_feed(const unsigned char *data, size_t length);                 /* false: over the window */
void run_feed_end(void);
void run_kill(enum cause cause);
void run_abandon(void); /* kill, and send no result */
void run_reap(void);
void run_poll_fds(struct pollfd fds[RUN_POLL_FDS]);
void run_poll_results(const struct pollfd fds[RUN_POLL_FDS]);
void run_advance(void);       /* whatever time or reaping has made possible */
int64_t run_deadline_ns(void); /* when to call run_advance() at the latest; -1: no need */

/* workspace.c: what returns a number returns 0 or errno */
int workspace_enter(const char *folder);
void workspace_unlock(void);
int workspace_open(const unsigned char *path, size_t length, mode_t mode);
int workspace_append(const unsigned char *data, size_t length);
int workspace_open_program(mode_t mode); /* the compiled one, as workspace_open() */
void workspace_close(void);
void workspace_clear(const char *folder, const char *name); /* so that the name is free */
int workspace_root(void); /* its folder, which stays the workspace's */
const char *workspace_path(void);
int workspace_open_folder(int parent, const char *name); /* to be listed; no link is followed */

/* inputs.c */
bool inputs_fingerprint(unsigned char digest[FINGERPRINT_BYTES], bool without_program);

/* compiled.c: while no program runs */
void compiled_fingerprint(uint32_t id, bool untouched);
int compiled_send(uint32_t id, const unsigned char *payload, size_t length); /* 0 or errno */
bool compiled_due(void); /* whether there is something to send, and room for it */
int compiled_advance(void);
void compiled_stop(void);

/* workspace_query.c */
void query_begin(const struct workspace_query *query); /* answered in its turn */
bool query_due(void);                      /* whether there is something to do when stderr has room */
void query_advance(void);

/* guard.c */
void guard_runner(void); /* for this process and all that it starts */

/* limits.c */
void counters_open(void);
int64_t oom_kills(void); /* so far, in this container; 0 where the kernel doesn't say */
bool memory_left(size_t bytes); /* for so much, and for a program to be started after that */
void usage_begin(int64_t now); /* a run */
void usage_sample(int64_t now);  /* how much memory it has at this moment */
int64_t usage_due_ns(void);    /* when usage_sample() is due again */
uint64_t usage_cpu_ns(void);   /* processor time of the run so far; 0: not known */
void usage_end(uint64_t *cpu_ns, uint64_t *peak_bytes); /* of all its processes together */
struct figures { /* UNKNOWN where the kernel doesn't say */
    uint64_t memory_bytes, memory_limit, cpu_ns, processes, process_limit;
};
#define UNKNOWN UINT64_MAX
struct figures figures_now(void); /* of all programs together */
uint64_t memory_now(void); /* of all of them, without files that were read; 0: not known */

/* gvisor.c: nothing of it does anything unless gvisor_watch() was called */
/* `limits`: bytes of memory, number of files, user and group of programs */
bool gvisor_watch(const char *workspace, char *const limits[4]);
void gvisor_begin(void);           /* a program is started */
int64_t gvisor_due_ns(void);       /* when to call gvisor_exceeded() again; -1: no need */
bool gvisor_exceeded(int64_t now); /* it has more memory or files than it may */
void gvisor_usage(uint64_t *cpu_ns, uint64_t *peak_bytes); /* as usage_end() */
bool gvisor_figures(struct figures *figures); /* false: the kernel isn't gVisor's */
bool gvisor_confine(void);         /* in its process, before it is executed */

#endif
