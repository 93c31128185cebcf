/* What an EXEC holds: every string that comes of it lies, zero byte included, in the payload or in
 * the inherited environment. The payload ends where its memory does. */
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

static bool lies_in(const char *text, const void *memory, size_t size)
{
    const char *begin = memory;
    return text >= begin && text < begin + size && memchr(text, 0, size - (size_t)(text - begin));
}

static bool is_inherited(const char *text)
{
    for (char **variable = sim_environ; *variable; variable++)
        if (*variable == text)
            return true;
    return false;
}

static void check_order(const struct order *order, const unsigned char *payload, size_t length)
{
    size_t arguments = 0, ordered = 0, variables = (size_t)payload[22] << 8 | payload[23];
    MUST(order->wall_ns >= 0 && lies_in(order->cwd, payload, length));
    for (; order->argv[arguments]; arguments++)
        MUST(lies_in(order->argv[arguments], payload, length));
    MUST(arguments == ((size_t)payload[20] << 8 | payload[21]));
    for (; order->env[ordered]; ordered++)
        MUST(ordered < variables ? lies_in(order->env[ordered], payload, length)
                                 : is_inherited(order->env[ordered]));
    MUST(ordered >= variables && ordered <= MAX_STRINGS);
}

/* The input: how many variables are inherited, then these, each up to a zero byte, then the EXEC. */
static void inherit(char *texts, size_t size)
{
    size_t count = take_u8() % 32, used = 0;
    for (size_t i = 0; i < count; i++) {
        kernel.environment[i] = texts + used;
        for (char byte; used < size - count + i && (byte = (char)take_u8());)
            texts[used++] = byte;
        texts[used++] = 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct order order;
    char texts[1024];
    kernel_reset(data, size);
    inherit(texts, sizeof texts);
    size_t length = left_of_input();
    unsigned char *payload = malloc(length ? length : 1);
    memcpy(payload, input.at, length);
    if (order_parse(&order, payload, length))
        check_order(&order, payload, length);
    free(payload);
    return 0;
}
