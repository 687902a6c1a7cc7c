#define _GNU_SOURCE /* dladdr */
#include "library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

ng_functions ng;

static void *open_library(void)
{
    Dl_info self;
    char path[4096];
    const char *end;
    void *library;

    if (dladdr((void *)&ng, &self) && (end = strrchr(self.dli_fname, '/')) != NULL) {
        int length = (int)(end - self.dli_fname);
        int wanted = snprintf(path, sizeof path, "%.*s/%s", length, self.dli_fname, NG_LIBRARY);
        if (wanted > 0 && (size_t)wanted < sizeof path) {
            library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (library != NULL) {
                return library;
            }
        }
    }
    return dlopen(NG_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

/* A data pointer becomes a function pointer as POSIX has it (dlsym, "Application usage"). */
static int find(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

int ng_load(char *error, size_t size)
{
    static int loaded;
    void *library;
    ng_info *info;

    if (loaded) {
        return 0;
    }
    library = open_library();
    if (library == NULL) {
        snprintf(error, size, "%s", dlerror());
        return -1;
    }
#define X(result, name, arguments)                                                                 \
    if (!find(library, "nghttp2_" #name, &ng.name)) {                                              \
        snprintf(error, size, "%s has no function nghttp2_%s", NG_LIBRARY, #name);                 \
        dlclose(library);                                                                          \
        return -1;                                                                                 \
    }
    NG_FUNCTIONS(X)
#undef X
#define X(result, name, arguments) find(library, "nghttp2_" #name, &ng.name);
    NG_OPTIONAL_FUNCTIONS(X)
#undef X
    info = ng.version(0);
    if (info->version_num < NG_OLDEST_VERSION) {
        snprintf(error, size, "nghttp2 is %s; 1.43 or later is needed", info->version_str);
        dlclose(library);
        return -1;
    }
    loaded = 1;
    return 0;
}
