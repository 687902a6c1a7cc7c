/* A plugin as a WebAssembly component, in C without a library: it counts, for each key apart.
 *
 * What wit-bindgen generates from prism_plugin.wit is written by hand here, to show that it is
 * little: the canonical ABI passes a string as its place and size, and a result by a pointer to
 * where it lies. docs/wasm.md says how to build it, and what to use for larger ones. */

#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(interface, name)                                                                    \
    __attribute__((import_module("prism:plugin/" interface "@1.0.0"), import_name(name)))
#define HANDLER "prism:plugin/handler@1.0.0#"

IMPORT("key-value", "increment") int64_t increment(const char *key, size_t size, int64_t by);
IMPORT("calls", "send") int send(const char *message, size_t size);

/* Memory: what comes for a call and what it answers is given back at once when it has ended. */
extern unsigned char __heap_base;
static uintptr_t used;

EXPORT("cabi_realloc") void *reallocate(void *old, size_t old_size, size_t align, size_t size)
{
    uintptr_t start = used ? used : (uintptr_t)&__heap_base;
    start = (start + align - 1) & ~(uintptr_t)(align - 1);
    used = start + size;
    size_t have = __builtin_wasm_memory_size(0) * 65536;
    if (used > have && __builtin_wasm_memory_grow(0, (used - have + 65535) / 65536) == (size_t)-1)
        __builtin_trap();
    for (size_t i = 0; i < old_size && i < size; i++)
        ((char *)start)[i] = ((char *)old)[i];
    return (void *)start;
}

/* result<string, failure>: ok is 0, and its text; an error is 1, a status and its text. */
struct answer {
    uint8_t is_error;
    union {
        struct {
            const char *text;
            size_t size;
        } ok;
        struct {
            uint8_t status;
            const char *detail;
            size_t size;
        } error;
    };
};

static struct answer answer;

static struct answer *ok(const char *text, size_t size)
{
    answer = (struct answer){.is_error = 0, .ok = {text, size}};
    return &answer;
}

static struct answer *failed(uint8_t status, const char *detail, size_t size)
{
    answer = (struct answer){.is_error = 1, .error = {status, detail, size}};
    return &answer;
}

#define OK(literal) ok(literal, sizeof literal - 1)
#define FAILED(status, literal) failed(status, literal, sizeof literal - 1)

static char *decimal(char *end, uint64_t number)
{
    do
        *--end = (char)('0' + number % 10);
    while (number /= 10);
    return end;
}

EXPORT(HANDLER "initialize") struct answer *initialize(const char *settings, size_t size)
{
    (void)settings, (void)size;
    return OK("{\"version\": \"1.0.0\", \"operations\": [{\"name\": \"count\"},"
              " {\"name\": \"numbers\", \"streaming\": true, \"access\": \"read\"}]}");
}

/* {"key": ...}, whatever it is, has a count of its own. */
EXPORT(HANDLER "execute")
struct answer *execute(const char *operation, size_t size, const char *params, size_t params_size)
{
    static char text[40] = "{\"count\": ";
    (void)operation, (void)size;
    if (params_size <= 2)
        return FAILED(3, "it needs a parameter, the key to count");
    char digits[20], *end = digits + sizeof digits, *from;
    from = decimal(end, (uint64_t)increment(params, params_size, 1));
    char *to = text + 10;
    while (from < end)
        *to++ = *from++;
    *to++ = '}';
    return ok(text, (size_t)(to - text));
}

EXPORT(HANDLER "stream")
struct answer *stream(const char *operation, size_t size, const char *params, size_t params_size)
{
    (void)operation, (void)size, (void)params, (void)params_size;
    char digits[20], *end = digits + sizeof digits;
    for (uint64_t number = 0; number < 10; number++) {
        char *from = decimal(end, number);
        if (!send(from, (size_t)(end - from)))
            break; /* nobody wants more */
    }
    return OK("{}");
}

EXPORT(HANDLER "health") struct answer *health(void)
{
    return OK("{\"status\": \"healthy\"}");
}

/* The host has read the answer. */
EXPORT("cabi_post_" HANDLER "initialize") void initialized(void *result)
{
    (void)result;
    used = 0;
}

EXPORT("cabi_post_" HANDLER "execute") void executed(void *result)
{
    initialized(result);
}

EXPORT("cabi_post_" HANDLER "stream") void streamed(void *result)
{
    initialized(result);
}
