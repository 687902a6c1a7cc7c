/* Our declarations beside nghttp2's own; compiling it is the test. */
#include <assert.h>
#include <nghttp2/nghttp2.h>

#include "abi.h"

#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs), #theirs)
#define SAME_FIELD(ours, theirs, field)                                                            \
    static_assert(offsetof(ours, field) == offsetof(theirs, field), #theirs "." #field);           \
    static_assert(sizeof(((ours *)0)->field) == sizeof(((theirs *)0)->field), #theirs "." #field)
#define SAME_NUMBER(ours, theirs) static_assert((long)(ours) == (long)(theirs), #theirs)

SAME_SIZE(ng_info, nghttp2_info);
SAME_FIELD(ng_info, nghttp2_info, age);
SAME_FIELD(ng_info, nghttp2_info, version_num);
SAME_FIELD(ng_info, nghttp2_info, version_str);
SAME_FIELD(ng_info, nghttp2_info, proto_str);

SAME_SIZE(ng_mem, nghttp2_mem);
SAME_FIELD(ng_mem, nghttp2_mem, malloc);
SAME_FIELD(ng_mem, nghttp2_mem, free);
SAME_FIELD(ng_mem, nghttp2_mem, calloc);
SAME_FIELD(ng_mem, nghttp2_mem, realloc);

SAME_SIZE(ng_vec, nghttp2_vec);
SAME_FIELD(ng_vec, nghttp2_vec, base);
SAME_FIELD(ng_vec, nghttp2_vec, len);

SAME_SIZE(ng_nv, nghttp2_nv);
SAME_FIELD(ng_nv, nghttp2_nv, name);
SAME_FIELD(ng_nv, nghttp2_nv, value);
SAME_FIELD(ng_nv, nghttp2_nv, namelen);
SAME_FIELD(ng_nv, nghttp2_nv, valuelen);
SAME_FIELD(ng_nv, nghttp2_nv, flags);

SAME_SIZE(ng_settings_entry, nghttp2_settings_entry);
SAME_FIELD(ng_settings_entry, nghttp2_settings_entry, settings_id);
SAME_FIELD(ng_settings_entry, nghttp2_settings_entry, value);

SAME_SIZE(ng_data_source, nghttp2_data_source);
SAME_SIZE(ng_data_provider, nghttp2_data_provider);
SAME_FIELD(ng_data_provider, nghttp2_data_provider, source);
SAME_FIELD(ng_data_provider, nghttp2_data_provider, read_callback);

SAME_SIZE(ng_frame_hd, nghttp2_frame_hd);
SAME_FIELD(ng_frame_hd, nghttp2_frame_hd, length);
SAME_FIELD(ng_frame_hd, nghttp2_frame_hd, stream_id);
SAME_FIELD(ng_frame_hd, nghttp2_frame_hd, type);
SAME_FIELD(ng_frame_hd, nghttp2_frame_hd, flags);
SAME_FIELD(ng_frame_hd, nghttp2_frame_hd, reserved);

SAME_SIZE(ng_priority_spec, nghttp2_priority_spec);

SAME_SIZE(ng_headers, nghttp2_headers);
SAME_FIELD(ng_headers, nghttp2_headers, padlen);
SAME_FIELD(ng_headers, nghttp2_headers, pri_spec);
SAME_FIELD(ng_headers, nghttp2_headers, nva);
SAME_FIELD(ng_headers, nghttp2_headers, nvlen);
SAME_FIELD(ng_headers, nghttp2_headers, cat);

SAME_SIZE(ng_ping, nghttp2_ping);
SAME_FIELD(ng_ping, nghttp2_ping, opaque_data);

SAME_SIZE(ng_goaway, nghttp2_goaway);
SAME_FIELD(ng_goaway, nghttp2_goaway, last_stream_id);
SAME_FIELD(ng_goaway, nghttp2_goaway, error_code);
SAME_FIELD(ng_goaway, nghttp2_goaway, opaque_data);
SAME_FIELD(ng_goaway, nghttp2_goaway, opaque_data_len);

SAME_NUMBER(NG_DATA, NGHTTP2_DATA);
SAME_NUMBER(NG_HEADERS, NGHTTP2_HEADERS);
SAME_NUMBER(NG_RST_STREAM, NGHTTP2_RST_STREAM);
SAME_NUMBER(NG_SETTINGS, NGHTTP2_SETTINGS);
SAME_NUMBER(NG_PING, NGHTTP2_PING);
SAME_NUMBER(NG_GOAWAY, NGHTTP2_GOAWAY);
SAME_NUMBER(NG_WINDOW_UPDATE, NGHTTP2_WINDOW_UPDATE);
SAME_NUMBER(NG_CONTINUATION, NGHTTP2_CONTINUATION);
SAME_NUMBER(NG_FLAG_NONE, NGHTTP2_FLAG_NONE);
SAME_NUMBER(NG_FLAG_END_STREAM, NGHTTP2_FLAG_END_STREAM);
SAME_NUMBER(NG_FLAG_ACK, NGHTTP2_FLAG_ACK);
SAME_NUMBER(NG_FLAG_END_HEADERS, NGHTTP2_FLAG_END_HEADERS);
SAME_NUMBER(NG_FLAG_PADDED, NGHTTP2_FLAG_PADDED);
SAME_NUMBER(NG_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
SAME_NUMBER(NG_SETTINGS_INITIAL_WINDOW_SIZE, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
SAME_NUMBER(NG_SETTINGS_MAX_FRAME_SIZE, NGHTTP2_SETTINGS_MAX_FRAME_SIZE);
SAME_NUMBER(NG_SETTINGS_MAX_HEADER_LIST_SIZE, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE);
SAME_NUMBER(NG_SETTINGS_ENABLE_CONNECT_PROTOCOL, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL);
SAME_NUMBER(NG_HCAT_REQUEST, NGHTTP2_HCAT_REQUEST);
SAME_NUMBER(NG_HCAT_HEADERS, NGHTTP2_HCAT_HEADERS);
SAME_NUMBER(NG_NV_NO_INDEX, NGHTTP2_NV_FLAG_NO_INDEX);
SAME_NUMBER(NG_NV_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_COPY_NAME);
SAME_NUMBER(NG_NV_NO_COPY_VALUE, NGHTTP2_NV_FLAG_NO_COPY_VALUE);
SAME_NUMBER(NG_DATA_EOF, NGHTTP2_DATA_FLAG_EOF);
SAME_NUMBER(NG_DATA_NO_COPY, NGHTTP2_DATA_FLAG_NO_COPY);
SAME_NUMBER(NG_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE);
SAME_NUMBER(NG_ERR_CANCEL, NGHTTP2_ERR_CANCEL);
SAME_NUMBER(NG_ERR_NOMEM, NGHTTP2_ERR_NOMEM);
SAME_NUMBER(NG_ERR_CALLBACK_FAILURE, NGHTTP2_ERR_CALLBACK_FAILURE);
SAME_NUMBER(NG_ERR_BAD_CLIENT_MAGIC, NGHTTP2_ERR_BAD_CLIENT_MAGIC);
SAME_NUMBER(NG_ERR_FLOODED, NGHTTP2_ERR_FLOODED);

/* Functions take and return words alike: a wrong number or width of parameters shows here,
 * with nghttp2's structs in the place of ours. */
#define ng_session nghttp2_session
#define ng_callbacks nghttp2_session_callbacks
#define ng_option nghttp2_option
#define ng_rcbuf nghttp2_rcbuf
#define ng_info nghttp2_info
#define ng_vec nghttp2_vec
#define ng_nv nghttp2_nv
#define ng_mem nghttp2_mem
#define ng_settings_entry nghttp2_settings_entry
#define ng_priority_spec nghttp2_priority_spec
#define ng_data_provider nghttp2_data_provider
#define ng_on_frame nghttp2_on_frame_recv_callback
#define ng_on_header2 nghttp2_on_header_callback2
#define ng_on_data_chunk nghttp2_on_data_chunk_recv_callback
#define ng_send_data nghttp2_send_data_callback
#define ng_on_stream_close nghttp2_on_stream_close_callback
#define X(result, name, arguments) result(*check_##name) arguments = nghttp2_##name;
NG_FUNCTIONS(X)
