/* The kit from within, under the sanitizers: JSON, text, redaction, and sessions fed with bytes.
 *
 *   test            the cases below
 *   test feed [stream]
 *                   a session on standard input, which is a socket: tests/sdks/test_c.py sends it
 *                   the golden vectors */
#include "../prism_plugin.c"

static int failures;

static void expect(int holds, const char *what) {
    if (!holds) { printf("WRONG: %s\n", what); failures++; }
}

static void test_objects(void) {
    static const char *const good[] = {"{}", " {\"a\":[1,-0.5e+3,true,false,null,\"\\u00e9\\ud83d\\ude00\"]} ", "{\"a\":{\"b\":{}}}",
                                       "{\"\xc3\xa9\":\"\xf0\x9f\x98\x80\"}", "{\"a\":1,\"a\":2}"};
    static const char *const bad[] = {"", "[]", "1", "{", "{}{}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\":01}", "{\"a\":1.}",
                                      "{\"a\":tru}", "{\"a\":\"\n\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\xff\"}",
                                      "{\"a\":\"\xc0\x80\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xf4\x90\x80\x80\"}", "{\"a\":\"\xc3", "{\"a\":[1}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) expect(prism_json_is_object(good[i]), good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) expect(!prism_json_is_object(bad[i]), bad[i]);
    char deep[2 * MAX_DEPTH + 8] = "{\"a\":";
    memset(deep + 5, '[', MAX_DEPTH - 1);
    memset(deep + 4 + MAX_DEPTH, ']', MAX_DEPTH - 1);
    strcpy(deep + 3 + 2 * MAX_DEPTH, "}");
    expect(prism_json_is_object(deep), "100 levels");
    char *endless = malloc(1000001);
    memset(endless, '[', 1000000);
    endless[1000000] = '\0';
    expect(!is_value(endless), "a million levels");
    free(endless);
}

static void test_fields(void) {
    const char *object = "{ \"a\" : [ {\"b\":\"}]\"}, 2 ] , \"n\":-1.5, \"s\":\"q\\\"\\u0041\\ud83d\\ude00\\ud800x\", \"\\u006b\":true, \"a\": 7}";
    double n = 0;
    prism_text text = {0};
    expect(prism_json_number(prism_json_field(object, "a"), &n) && n == 7, "the last one counts");
    expect(prism_json_number(prism_json_field(object, "n"), &n) && n == -1.5, "a number");
    expect(prism_json_string(prism_json_field(object, "s"), &text) && strcmp(text.at, "q\"A\xf0\x9f\x98\x80\xef\xbf\xbdx") == 0, "a string");
    expect(strncmp(prism_json_field(object, "k"), "true", 4) == 0, "an escaped name");
    expect(prism_json_field(object, "none") == NULL && prism_json_field("{}", "a") == NULL, "no such field");
    expect(!prism_json_number(NULL, &n) && !prism_json_string(NULL, &text) && !prism_json_string("7", &text), "other types");
    prism_text_free(&text);
}

static void test_quoting(void) {
    static const char bytes[] = "a\"\\\n\x01\xc3\xa9\xff\xf0\x9f\x98";
    prism_text text = {0};
    prism_add_quoted(&text, bytes, sizeof bytes - 1);
    expect(strcmp(text.at, "\"a\\\"\\\\\\u000a\\u0001\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"") == 0, text.at);
    prism_text_free(&text);
    char all[1000];
    memset(all, '\x01', sizeof all);
    prism_add_quoted(&text, all, sizeof all);
    expect(text.size == 6002 && is_value(text.at), "a thousand escapes");
    prism_text_free(&text);
}

static void test_redaction(void) {
    char name[] = "password", user[] = "username", value[] = "p\"w", ada[] = "ada";
    pair second = {.name = user, .value = ada}, first = {.next = &second, .name = name, .value = value};
    prism_session s = {.credentials = &first};
    prism_text text = {0};
    add_all(&text, "ada says p\"w, p\\\"w and p\\\\\\\"w, p\"w");
    redact(&s, &text);
    expect(strcmp(text.at, "ada says (hidden), (hidden) and (hidden), (hidden)") == 0, text.at);
    expect(strlen(text.at) == text.size, "its size");
    prism_text_free(&text);
}

static void test_redaction_of_secrets_that_begin_another(void) {
    prism_session s = {0};
    prism_call call = {0};
    prism_text text = {0};
    expect(read_initialize(&s, &call, "{\"credentials\":{\"b\":\"hunter2-and-more\",\"c\":\"hunter2\",\"a\":\"hunter\"}}") == NULL, "credentials");
    add_all(&text, "hunter2-and-more, hunter, hunter2");
    redact(&s, &text);
    expect(strcmp(text.at, "(hidden), (hidden), (hidden)") == 0, text.at);
    expect(strcmp(prism_credential(&s, "c"), "hunter2") == 0, "each has its own");
    prism_text *const texts[] = {&text, &s.name_space, &s.config};
    for (int i = 0; i < 3; i++) prism_text_free(texts[i]);
    free_pairs(s.credentials);
}

static void test_numbers(void) { /* in the locale of the environment, which may write 2,5 */
    prism_session s = {.latency_ms = 1.25};
    prism_text text = {0};
    double number = 0;
    pthread_mutex_init(&s.mutex, NULL);
    setlocale(LC_ALL, "");
    prism_metric(&s, "a", 2.5);
    prism_metric(&s, "b", NAN);
    add_metrics(&s, &text);
    expect(prism_json_is_object(text.at) && strstr(text.at, "\"latency_ms\":1.250,") != NULL, text.at);
    expect(strstr(text.at, "\"{\\\"a\\\":2.5}\"") != NULL, text.at);
    expect(prism_json_number("1.5", &number) && number == 1.5, "a number with a point");
    setlocale(LC_ALL, "C");
    prism_text_free(&text);
    free_pairs(s.custom);
}

static void test_logs(void) { /* of many at once: at most 1,000 in a NOTE, and none is lost silently */
    static const prism_plugin plugin = {.name = "p"};
    prism_session s = {.plugin = &plugin, .answer_max = 1 << 20};
    pthread_mutex_init(&s.mutex, NULL);
    condition(&s.background);
    for (int i = 0; i < 20000; i++) prism_log(&s, PRISM_INFO, "line %d with \"quotes\" and more, so that it is long enough", i);
    int dropped = s.dropped, told = 0;
    s.out_from = 0;
    send_logs(&s);
    expect(s.logged > 0 && dropped > 0, "some are dropped where the host does not read");
    for (size_t at = 0; at < s.out.size;) {
        uint32_t size = get32(s.out.at + at);
        char *note = s.out.at + at + HEADER, kept = note[size];
        int records = 0;
        note[size] = '\0';
        expect(prism_json_is_object(note), "a NOTE is JSON");
        for (const char *p = note; (p = strstr(p, "\"message\":")) != NULL; p++) records++;
        expect(records <= 1000, "records of a NOTE");
        told += records;
        note[size] = kept;
        at += HEADER + size;
    }
    expect(told + s.logged + dropped == 20000, "told, waiting, and dropped");
    s.out.size = 0;
    send_logs(&s);
    expect(s.logged == 0 && strstr(s.out.at + HEADER, "log records were dropped") != NULL, "it is told how many");
    prism_text_free(&s.out);
    prism_text_free(&s.logs);
}

static void nothing(prism_call *call, const char *params) { (void)params; prism_result(call, "{}"); }

static void test_checks(void) {
    const prism_operation bad_name[] = {{.name = "Get-Key", .handler = nothing}, {0}}, no_handler[] = {{.name = "get"}, {0}}, none[] = {{0}};
    const prism_operation schema[] = {{.name = "get", .handler = nothing, .params_schema = "[]"}, {0}}, good[] = {{.name = "get", .handler = nothing}, {0}};
    const prism_operation *const bad[] = {bad_name, no_handler, none, schema, NULL};
    for (int i = 0; i < 5; i++) expect(!check_plugin(&(prism_plugin){.name = "p", .version = "1", .operations = bad[i]}), "a plugin that is none");
    expect(!check_plugin(&(prism_plugin){.name = "", .version = "1", .operations = good}), "no name");
    expect(check_plugin(&(prism_plugin){.name = "p", .version = "1", .operations = good}), "a good plugin");
}

static void slow(prism_call *call, const char *params) { (void)params; prism_wait(call, 60); }

static void all_messages(prism_call *call, const char *params) {
    (void)params;
    while (prism_receive(call) != NULL) {}
}

/* Whatever is called runs until it is cancelled; the vectors' operation without a name, too. */
static int feed(int streaming) {
    const prism_operation operations[] = {{.name = "get", .handler = slow}, {.name = "watch", .handler = all_messages, .streaming = 1},
        {.name = "", .handler = slow, .streaming = streaming}, {0}};
    const prism_plugin plugin = {.name = "x", .version = "1", .operations = operations, .max_frame = 1048576};
    first_state = 2;
    return serve_session(&plugin, dup(0));
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "feed") == 0) return feed(count > 2);
    test_objects();
    test_fields();
    test_quoting();
    test_redaction();
    test_redaction_of_secrets_that_begin_another();
    test_numbers();
    test_logs();
    test_checks();
    printf("%d wrong\n", failures);
    return failures != 0;
}
