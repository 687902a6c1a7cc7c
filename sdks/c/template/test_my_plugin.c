#define main plugin_main
#include "my_plugin.c"
#undef main

#include <stdio.h>
#include <string.h>

int main(void) {
    prism_text out = {0};
    int greeted = greeting("{\"name\": \"Ada\"}", &out) && strcmp(out.at, "{\"text\":\"Hello, Ada!\"}") == 0;
    int refused = !greeting("{}", &out) && !greeting("{\"name\": 7}", &out);
    prism_text_free(&out);
    printf("greeted %s, refused %s\n", greeted ? "ok" : "WRONG", refused ? "ok" : "WRONG");
    return !(greeted && refused);
}
