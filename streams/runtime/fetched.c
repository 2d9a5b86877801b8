// How do messages come out of librdkafka without a Python object for each? Copied to columns, as it hands them to us.
//
// This is a plugin of librdkafka: the setting `plugin.library.paths` of a client names it, and so it learns the client's
// handle. It knows of librdkafka what its documentation promises, and is given the functions of the one library that the
// Python client has loaded.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;
typedef unsigned char byte;

// rd_kafka_message_t
typedef struct {
    int code;
    void *topic;
    int32_t partition;
    void *value;
    size_t value_length;
    void *key;
    size_t key_length;
    i64 offset;
    void *hidden;
} Message;

typedef int OnNew(void *client, const void *settings, void *ours, char *error, size_t error_size);
typedef void OnMessage(Message *message, void *ours);

// Functions of librdkafka, whose names are these behind `rd_kafka_`.
typedef struct {
    int (*conf_interceptor_add_on_new)(void *settings, const char *name, OnNew *on_new, void *ours);
    int (*consume_callback_queue)(void *queue, int wait_ms, OnMessage *on_message, void *ours);
    void (*yield)(void *client);
    i64 (*message_timestamp)(const Message *message, int *kind);
    int (*message_headers)(const Message *message, void **headers);
    int (*header_get_all)(const void *headers, size_t at, const char **name, const void **value, size_t *size);
} Client;

// Bytes, one behind the other. `own` if they had to be put elsewhere, for want of room.
typedef struct {
    byte *data;
    i64 used, room, own;
} Bytes;

// Messages: the i-th has its value at [value_at[i], value_at[i + 1]) of `values`; of `asides` it has its key at
// [key_at[i], key_end[i]), where an error has its text, and its headers from there to key_at[i + 1].
typedef struct {
    void *client;
    i64 most, most_bytes, count;
    int32_t *code, *partition;
    i64 *offset, *broker_ms, *value_at, *key_at, *key_end;
    byte *lacking;
    Bytes values, asides;
} Taken;

enum { NO_KEY = 1, NO_VALUE = 2 };

static int is_full(const Taken *taken) {
    return taken->count == taken->most || taken->values.used + taken->asides.used >= taken->most_bytes;
}

static Client client;
static _Thread_local void *newest;

// Take the functions: before any client is made.
void fetch_from(const Client *found) { client = *found; }

static int on_new(void *made, const void *settings, void *ours, char *error, size_t error_size) {
    (void)settings, (void)ours, (void)error, (void)error_size;
    newest = made;
    return 0;
}

// librdkafka calls this when a client's settings name the library.
int conf_init(void *settings, void **ours, char *error, size_t error_size) {
    (void)ours, (void)error, (void)error_size;
    return client.conf_interceptor_add_on_new ? client.conf_interceptor_add_on_new(settings, "tocsin", on_new, NULL) : 0;
}

// Return the client that this thread has made last, once.
void *fetch_newest(void) {
    void *made = newest;
    newest = NULL;
    return made;
}

static void append(Bytes *bytes, const void *from, size_t size) {
    if (!size) return;
    if (bytes->used + (i64)size > bytes->room) {
        i64 room = 2 * (bytes->used + (i64)size);
        byte *data = malloc((size_t)room);
        if (!data) abort();  // as librdkafka does
        memcpy(data, bytes->data, (size_t)bytes->used);
        if (bytes->own) free(bytes->data);
        bytes->data = data, bytes->room = room, bytes->own = 1;
    }
    memcpy(bytes->data + bytes->used, from, size);
    bytes->used += (i64)size;
}

// Each header as the length of its name, the length of its value, -1 where it has none, the name, the value.
static void append_headers(Bytes *bytes, const Message *message) {
    void *headers;
    if (client.message_headers(message, &headers)) return;
    const char *name;
    const void *value;
    size_t size;
    for (size_t at = 0; client.header_get_all(headers, at, &name, &value, &size) == 0; at++) {
        i64 lengths[2] = {(i64)strlen(name), value ? (i64)size : -1};
        append(bytes, lengths, sizeof lengths);
        append(bytes, name, (size_t)lengths[0]);
        append(bytes, value, value ? size : 0);
    }
}

// The message, which may be an error, is librdkafka's, and gone afterwards.
static void on_message(Message *message, void *ours) {
    Taken *taken = ours;
    if (taken->count == taken->most) abort();  // librdkafka went on after it was told to stop
    i64 at = taken->count++;
    int is_error = message->code != 0, kind;
    taken->code[at] = message->code;
    taken->partition[at] = message->partition;
    taken->offset[at] = message->offset;
    taken->broker_ms[at] = is_error ? 0 : client.message_timestamp(message, &kind);
    taken->lacking[at] = (message->key ? 0 : NO_KEY) | (message->value ? 0 : NO_VALUE);
    if (is_error) {
        append(&taken->asides, message->value, message->value ? message->value_length : 0);
        taken->key_end[at] = taken->asides.used;
    } else {
        append(&taken->values, message->value, message->value ? message->value_length : 0);
        append(&taken->asides, message->key, message->key ? message->key_length : 0);
        taken->key_end[at] = taken->asides.used;
        append_headers(&taken->asides, message);
    }
    taken->value_at[at + 1] = taken->values.used;
    taken->key_at[at + 1] = taken->asides.used;
    if (is_full(taken)) client.yield(taken->client);
}

// Take what is there from some queues in turn, the one at `first` first; return where to begin the next time, so that none is
// always last.
i64 fetch_take(void *const *queues, i64 count, i64 first, Taken *taken) {
    taken->count = 0;
    taken->value_at[0] = taken->key_at[0] = 0;
    for (i64 turn = 0; turn < count; turn++) {
        i64 one = (first + turn) % count;
        client.consume_callback_queue(queues[one], 0, on_message, taken);
        if (is_full(taken)) return (one + 1) % count;
    }
    return first;
}

// Give back memory of ours.
void fetch_free(void *data) { free(data); }
