/* libnghttp2, found at run time. */
#ifndef PRISM_NGHTTP2_LIBRARY_H
#define PRISM_NGHTTP2_LIBRARY_H

#include "abi.h"

#define NG_LIBRARY "libnghttp2.so.14"
#define NG_OLDEST_VERSION 0x012b00 /* 1.43.0, of 2021 */

/* Its functions; the optional ones may be NULL. Constant after ng_load. */
typedef struct {
#define X(result, name, arguments) result(*name) arguments;
    NG_FUNCTIONS(X)
    NG_OPTIONAL_FUNCTIONS(X)
#undef X
} ng_functions;

extern ng_functions ng;

/* Load the library once per process; 0, or -1 with the reason in `error`.
 * A copy beside this extension (in a wheel) goes before the system's. */
int ng_load(char *error, size_t size);

#endif
