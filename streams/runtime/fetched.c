// How do messages come out of librdkafka without a Python object for each? As columns, of a queue of our own.
//
// This is a plugin of librdkafka: the setting `plugin.library.paths` of a client names it, and so it learns the client's
// handle. It knows of librdkafka what its documentation promises, and is given the functions of the one library that the
// Python client has loaded.

#include <stddef.h>
#include <stdint.h>
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

// Functions of librdkafka, whose names are these behind `rd_kafka_`.
typedef struct {
    int (*conf_interceptor_add_on_new)(void *settings, const char *name, OnNew *on_new, void *ours);
    void (*queue_forward)(void *from, void *to);
    ptrdiff_t (*consume_batch_queue)(void *queue, int wait_ms, Message **messages, size_t most);
    i64 (*message_timestamp)(const Message *message, int *kind);
    void (*message_destroy)(Message *message);
} Client;

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

// Lead what comes to the queues of some partitions to a queue of ours: whenever a partition is assigned anew, the client lets go
// of where it led to, at a moment of its own.
void fetch_lead(void *const *own, i64 count, void *queue) {
    for (i64 one = 0; one < count; one++) client.queue_forward(own[one], queue);
}

// Wait for a message, and take as many as are there, up to `most`, with what is to be known of each.
i64 fetch_take(void *queue, int wait_ms, i64 most, Message **messages, int32_t *code, int32_t *partition, i64 *offset,
               i64 *broker_ms, i64 *size, byte *lacking) {
    ptrdiff_t taken = client.consume_batch_queue(queue, wait_ms, messages, 1);
    if (taken == 1 && most > 1) {
        ptrdiff_t more = client.consume_batch_queue(queue, 0, messages + 1, (size_t)(most - 1));
        taken += more > 0 ? more : 0;
    }
    for (ptrdiff_t one = 0; one < taken; one++) {
        const Message *message = messages[one];
        int kind;
        code[one] = message->code;
        partition[one] = message->partition;
        offset[one] = message->offset;
        broker_ms[one] = client.message_timestamp(message, &kind);
        size[one] = message->value ? (i64)message->value_length : 0;
        lacking[one] = !message->key || !message->value;
    }
    return taken > 0 ? (i64)taken : 0;
}

// Put the values of some messages one behind the other, the i-th to `starts[i]`.
void fetch_copy(Message *const *messages, const i64 *chosen, i64 count, const i64 *starts, byte *to) {
    for (i64 one = 0; one < count; one++) {
        const Message *message = messages[chosen[one]];
        if (message->value) memcpy(to + starts[one], message->value, message->value_length);
    }
}

// Give messages back.
void fetch_free(Message **messages, i64 count) {
    for (i64 one = 0; one < count; one++) client.message_destroy(messages[one]);
}
