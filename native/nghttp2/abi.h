/* The part of nghttp2's ABI that the codec uses, declared by itself.
 *
 * Building needs no nghttp2 headers, and running finds the library with dlopen, so that
 * neither a missing header nor a missing library keeps Prism from being installed. What
 * stands here has not changed since libnghttp2.so.14 exists; a test compiles it against
 * the real <nghttp2/nghttp2.h> and compares sizes, offsets and constants.
 *
 * Source: nghttp2.h, https://nghttp2.org/documentation/apiref.html
 */
#ifndef PRISM_NGHTTP2_ABI_H
#define PRISM_NGHTTP2_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct ng_session ng_session;
typedef struct ng_callbacks ng_callbacks;
typedef struct ng_option ng_option;
typedef struct ng_rcbuf ng_rcbuf;

enum { /* frame types */
    NG_DATA = 0,
    NG_HEADERS = 1,
    NG_RST_STREAM = 3,
    NG_SETTINGS = 4,
    NG_PING = 6,
    NG_GOAWAY = 7,
    NG_WINDOW_UPDATE = 8,
    NG_CONTINUATION = 9,
};

enum { /* flags */
    NG_FLAG_NONE = 0,
    NG_FLAG_END_STREAM = 1,
    NG_FLAG_ACK = 1,
    NG_FLAG_END_HEADERS = 4,
    NG_FLAG_PADDED = 8,
};

enum { /* settings */
    NG_SETTINGS_MAX_CONCURRENT_STREAMS = 3,
    NG_SETTINGS_INITIAL_WINDOW_SIZE = 4,
    NG_SETTINGS_MAX_FRAME_SIZE = 5,
    NG_SETTINGS_MAX_HEADER_LIST_SIZE = 6,
    NG_SETTINGS_ENABLE_CONNECT_PROTOCOL = 8,
};

enum { /* what a HEADERS frame is */
    NG_HCAT_REQUEST = 0,
    NG_HCAT_HEADERS = 3,
};

enum { /* header fields */
    NG_NV_NO_INDEX = 1,
    NG_NV_NO_COPY_NAME = 2,
    NG_NV_NO_COPY_VALUE = 4,
};

enum { NG_DATA_EOF = 1, NG_DATA_NO_COPY = 4 };

enum { /* results */
    NG_ERR_TEMPORAL_CALLBACK_FAILURE = -521,
    NG_ERR_CANCEL = -535,
    NG_ERR_NOMEM = -901,
    NG_ERR_CALLBACK_FAILURE = -902,
    NG_ERR_BAD_CLIENT_MAGIC = -903,
    NG_ERR_FLOODED = -904,
    NG_ERR_TOO_MANY_CONTINUATIONS = -905,
};

typedef struct {
    int age;
    int version_num;
    const char *version_str;
    const char *proto_str;
} ng_info;

typedef struct {
    void *user_data;
    void *(*malloc)(size_t size, void *user_data);
    void (*free)(void *pointer, void *user_data);
    void *(*calloc)(size_t number, size_t size, void *user_data);
    void *(*realloc)(void *pointer, size_t size, void *user_data);
} ng_mem;

typedef struct {
    uint8_t *base;
    size_t len;
} ng_vec;

typedef struct {
    uint8_t *name;
    uint8_t *value;
    size_t namelen;
    size_t valuelen;
    uint8_t flags;
} ng_nv;

typedef struct {
    int32_t settings_id;
    uint32_t value;
} ng_settings_entry;

typedef union {
    int fd;
    void *ptr;
} ng_data_source;

typedef struct {
    size_t length;
    int32_t stream_id;
    uint8_t type;
    uint8_t flags;
    uint8_t reserved;
} ng_frame_hd;

typedef struct {
    int32_t stream_id;
    int32_t weight;
    uint8_t exclusive;
} ng_priority_spec;

typedef struct {
    ng_frame_hd hd;
    size_t padlen;
    ng_priority_spec pri_spec;
    ng_nv *nva;
    size_t nvlen;
    int cat;
} ng_headers;

typedef struct {
    ng_frame_hd hd;
    uint8_t opaque_data[8];
} ng_ping;

typedef struct {
    ng_frame_hd hd;
    int32_t last_stream_id;
    uint32_t error_code;
    uint8_t *opaque_data;
    size_t opaque_data_len;
    uint8_t reserved;
} ng_goaway;

typedef union {
    ng_frame_hd hd;
    ng_headers headers;
    ng_ping ping;
    ng_goaway goaway;
} ng_frame;

typedef ssize_t (*ng_data_read)(ng_session *session, int32_t stream_id, uint8_t *buffer,
                                size_t length, uint32_t *data_flags, ng_data_source *source,
                                void *user_data);

typedef struct {
    ng_data_source source;
    ng_data_read read_callback;
} ng_data_provider;

typedef int (*ng_send_data)(ng_session *session, ng_frame *frame, const uint8_t *header,
                            size_t length, ng_data_source *source, void *user_data);
typedef int (*ng_on_frame)(ng_session *session, const ng_frame *frame, void *user_data);
typedef int (*ng_on_header2)(ng_session *session, const ng_frame *frame, ng_rcbuf *name,
                             ng_rcbuf *value, uint8_t flags, void *user_data);
typedef int (*ng_on_data_chunk)(ng_session *session, uint8_t flags, int32_t stream_id,
                                const uint8_t *data, size_t len, void *user_data);
typedef int (*ng_on_stream_close)(ng_session *session, int32_t stream_id, uint32_t error_code,
                                  void *user_data);

/* X(result, name, arguments): every function without which the codec cannot work. */
#define NG_FUNCTIONS(X)                                                                            \
    X(ng_info *, version, (int least_version))                                                     \
    X(const char *, strerror, (int error))                                                         \
    X(ng_vec, rcbuf_get_buf, (ng_rcbuf *buffer))                                                   \
    X(int, session_callbacks_new, (ng_callbacks **callbacks))                                      \
    X(void, session_callbacks_del, (ng_callbacks *callbacks))                                      \
    X(void, session_callbacks_set_on_frame_recv_callback, (ng_callbacks *, ng_on_frame))           \
    X(void, session_callbacks_set_before_frame_send_callback, (ng_callbacks *, ng_on_frame))       \
    X(void, session_callbacks_set_on_begin_headers_callback, (ng_callbacks *, ng_on_frame))        \
    X(void, session_callbacks_set_on_header_callback2, (ng_callbacks *, ng_on_header2))            \
    X(void, session_callbacks_set_on_data_chunk_recv_callback, (ng_callbacks *, ng_on_data_chunk)) \
    X(void, session_callbacks_set_on_stream_close_callback, (ng_callbacks *, ng_on_stream_close))  \
    X(void, session_callbacks_set_send_data_callback, (ng_callbacks *, ng_send_data))              \
    X(int, option_new, (ng_option **option))                                                       \
    X(void, option_del, (ng_option *option))                                                       \
    X(void, option_set_no_auto_window_update, (ng_option *, int value))                            \
    X(void, option_set_no_http_messaging, (ng_option *, int value))                                \
    X(void, option_set_no_closed_streams, (ng_option *, int value))                                \
    X(void, option_set_max_deflate_dynamic_table_size, (ng_option *, size_t value))                \
    X(void, option_set_max_settings, (ng_option *, size_t value))                                  \
    X(void, option_set_max_outbound_ack, (ng_option *, size_t value))                              \
    X(int, session_server_new3,                                                                    \
      (ng_session **, const ng_callbacks *, void *user_data, const ng_option *, ng_mem *))         \
    X(void, session_del, (ng_session *))                                                           \
    X(ssize_t, session_mem_recv, (ng_session *, const uint8_t *data, size_t len))                  \
    X(ssize_t, session_mem_send, (ng_session *, const uint8_t **data))                             \
    X(int, session_consume, (ng_session *, int32_t stream_id, size_t size))                        \
    X(int, session_set_local_window_size,                                                          \
      (ng_session *, uint8_t flags, int32_t stream_id, int32_t size))                              \
    X(int32_t, session_get_remote_window_size, (ng_session *))                                     \
    X(int32_t, session_get_stream_remote_window_size, (ng_session *, int32_t stream_id))           \
    X(void *, session_get_stream_user_data, (ng_session *, int32_t stream_id))                     \
    X(int, session_set_stream_user_data, (ng_session *, int32_t stream_id, void *user_data))       \
    X(int, submit_settings, (ng_session *, uint8_t flags, const ng_settings_entry *, size_t))      \
    X(int32_t, submit_headers,                                                                     \
      (ng_session *, uint8_t flags, int32_t stream_id, const ng_priority_spec *, const ng_nv *,    \
       size_t nvlen, void *stream_user_data))                                                      \
    X(int, submit_data, (ng_session *, uint8_t flags, int32_t stream_id, const ng_data_provider *)) \
    X(int, submit_rst_stream, (ng_session *, uint8_t flags, int32_t stream_id, uint32_t code))     \
    X(int, submit_ping, (ng_session *, uint8_t flags, const uint8_t *opaque_data))

/* Younger than the oldest version that serves, or backported by some distributions. */
#define NG_OPTIONAL_FUNCTIONS(X)                                                                   \
    X(void, option_set_stream_reset_rate_limit, (ng_option *, uint64_t burst, uint64_t rate))      \
    X(void, option_set_glitch_rate_limit, (ng_option *, uint64_t burst, uint64_t rate))            \
    X(void, option_set_max_continuations, (ng_option *, size_t value))

#endif
