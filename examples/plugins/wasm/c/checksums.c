/* A plugin as a WebAssembly module, in C with wasi-libc: checksums of what it is called with.
 * docs/wasm.md explains the interface. What it prints are lines of the proxy's log, where they
 * are granted (plugin.wasm.grants). */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("prism"), import_name(name)))

IMPORT("send") int prism_send(const char *message, size_t size);

enum { OK = 0, INVALID_ARGUMENT = 3, UNIMPLEMENTED = 12 };

/* What the host calls with, and what it is answered. Both stay where they are until the next call,
 * which is all that it asks for. */
static char *buffer;
static char answer[1024];

static uint64_t answered(int status, const char *text)
{
    answer[0] = (char)status;
    int size = snprintf(answer + 1, sizeof answer - 1, "%s", text);
    return (uint64_t)(uintptr_t)answer << 32 | (uint32_t)(1 + size);
}

EXPORT("prism_abi") int prism_abi(void)
{
    return 1;
}

EXPORT("prism_alloc") char *prism_alloc(size_t size)
{
    free(buffer);
    return buffer = malloc(size);
}

EXPORT("prism_initialize") uint64_t prism_initialize(const char *settings, size_t size)
{
    (void)settings;
    printf("checksums, with %zu bytes of settings\n", size);
    fflush(stdout);
    return answered(OK, "{\"version\": \"1.0.0\", \"operations\": ["
                        "{\"name\": \"crc32\", \"idempotent\": true, \"access\": \"read\"},"
                        "{\"name\": \"count\", \"streaming\": true, \"access\": \"read\"}]}");
}

static int is(const char *operation, size_t size, const char *name)
{
    return size == strlen(name) && memcmp(operation, name, size) == 0;
}

EXPORT("prism_execute")
uint64_t prism_execute(const char *operation, size_t size, const char *params, size_t params_size)
{
    char text[100];
    if (!is(operation, size, "crc32"))
        return answered(UNIMPLEMENTED, "there is no such operation");
    uint32_t sum = ~0u;
    for (size_t i = 0; i < params_size; i++) {
        sum ^= (unsigned char)params[i];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    }
    snprintf(text, sizeof text, "{\"crc32\": \"%08x\", \"bytes\": %zu}", ~sum, params_size);
    return answered(OK, text);
}

EXPORT("prism_stream")
uint64_t prism_stream(const char *operation, size_t size, const char *params, size_t params_size)
{
    char text[20], digits[20] = "";
    if (!is(operation, size, "count"))
        return answered(UNIMPLEMENTED, "there is no such stream");
    const char *upto = memchr(params, ':', params_size);
    if (upto == NULL)
        return answered(INVALID_ARGUMENT, "the parameter \"upto\" is missing");
    size_t left = (size_t)(params + params_size - ++upto);
    memcpy(digits, upto, left < sizeof digits - 1 ? left : sizeof digits - 1);
    for (long number = 0, end = atol(digits); number < end; number++) {
        int written = snprintf(text, sizeof text, "%ld", number);
        if (prism_send(text, (size_t)written) != 1)
            break; /* nobody wants more */
    }
    return answered(OK, "{}");
}
