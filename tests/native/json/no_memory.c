/* Linked in the place of the C library's, with --wrap: as many allocations succeed as
 * ALLOCATIONS in the environment says. */
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_realloc(void *pointer, size_t size);

static int succeeds(void)
{
    static int left = -1;

    if (left < 0) {
        left = atoi(getenv("ALLOCATIONS"));
    }
    return left > 0 && left-- > 0;
}

void *__wrap_malloc(size_t size)
{
    return succeeds() ? __real_malloc(size) : NULL;
}

void *__wrap_realloc(void *pointer, size_t size)
{
    return succeeds() ? __real_realloc(pointer, size) : NULL;
}
