/* The kernel's count of out-of-memory kills, whatever its file holds; and the token's variable. */
#include "kernel.h"

static void on_told(const unsigned char *bytes, size_t length)
{
    (void)bytes, (void)length;
}

static bool next_event(void)
{
    return false;
}

static void check_at_rest(void)
{
}

/* The count as the file's format has it: a line that begins so. */
static int64_t counted(const uint8_t *text, size_t length)
{
    static const char NAME[] = "oom_kill ";
    char digits[1024] = "";
    for (size_t at = 0; at < length && text[at]; at++) {
        if ((at > 0 && text[at - 1] != '\n') || length - at < strlen(NAME) ||
            memcmp(text + at, NAME, strlen(NAME)) != 0)
            continue;
        memcpy(digits, text + at + strlen(NAME), length - at - strlen(NAME));
        uint64_t count = *digits >= '0' && *digits <= '9' ? strtoull(digits, NULL, 10) : 0;
        return count > INT64_MAX ? 0 : (int64_t)count;
    }
    return 0;
}

static void check_token(const uint8_t *text, size_t length)
{
    char variable[64] = TOKEN_VARIABLE, nothing[] = "A=1";
    size_t at = strlen(variable);
    memcpy(variable + at, text, length < 40 ? length : 40);
    size_t said = strlen(variable) - at;
    bool good = said == 2 * TOKEN_BYTES && strspn(variable + at, "0123456789abcdef") == said;
    for (size_t i = 0; good && i < TOKEN_BYTES; i++)
        good = strncmp(variable + at + 2 * i, "00", 2) != 0;
    kernel.environment[0] = variable;
    kernel.environment[1] = nothing;
    kernel.environment[2] = NULL;
    MUST(token_take() == good);
    MUST(variable[0] == 0 && kernel.environment[0] == nothing && !kernel.environment[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kernel_reset(data, size);
    runner_reset();
    kernel.counter_text = data;
    kernel.counter_length = size;
    counters_open();
    MUST(oom_kills() == counted(data, size < 1022 ? size : 1022));
    check_token(data, size);
    return 0;
}
