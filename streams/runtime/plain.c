// How are plain messages read without making objects of their rows? From bytes straight into columns.
//
// What is unusual is not refused here but left to the decoder in Python, which knows every answer: an escape in a name, a
// number of more digits than fit, a field twice, a value out of range, no JSON at all. So whatever is read here must be
// read there, and alike; tests hold the two against one another.
//
// The next key is guessed from the row before, since a producer writes its fields in one order: a guess is compared, not
// looked up. Numbers are exact: Lemire, "Number parsing at a gigabyte per second", Software 51(8), 2021.
//
// Nothing is allocated here, and nothing is read outside of [data, data + starts[messages]).

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef uint64_t u64;
typedef uint8_t byte;

// What a field is.
enum { REFUSED, ID, NAME, CHOICE, INT, ANSWER, SHARE, BOOL, FEATURE, SEGMENTS, FEATURES, PROBABILITIES, ROWS, COLUMNS };
// Where a name stands: a key of a row, of `columns`, within `segments`, within `features`; or which name it is: of a model whose
// answers are numbers, of a choice.
enum { ROW, COLUMN, SEGMENT, INNER_FEATURE, NUMERIC_MODEL, CHOSEN };
// What an answer is written as.
enum { TEXT = 1, WHOLE, FRACTION };
enum { STATE_NUMBER, STATE_NAME, STATE_NULL, STATE_ABSENT };
// What an empty name is, and whether a column is that of models.
enum { EMPTY_COUNTS, EMPTY_IS_ABSENT, OF_MODELS };

#define MOST_NAME_BYTES 512
#define MOST_ROWS 65536     // of a message
#define MOST_CLASSES 32     // of one `probabilities`, compared with one another in case one comes twice
#define MOST_DIGITS 19      // what 64 bits hold for certain
#define DEPTH 60            // how deep what is skipped may be nested
#define LEAST_POWER (-342)
#define MOST_POWER 308
#define GREATEST_SINGLE 3.4028234663852886e38

#define NOT_PLAIN (-1)
#define FULL (-2)

typedef struct {
    // What is looked for: `fields` names, one behind the other in `names`; `slots` is a hash table of them.
    const byte *names;
    int32_t *slots;
    i64 slot_mask;
    i64 fields;
    const i64 *start, *length, *scope, *kind, *column, *low, *high;
    const byte *required, *nullable;
    i64 needed;
    const u64 *powers;  // of five, 128 bits each, from LEAST_POWER on
    // Where rows go: `rows` fit, columns lie one behind the other.
    i64 rows;
    i64 int_columns, code_columns, bool_columns, feature_columns;
    i64 *id_start, *id_length;
    u64 *id_hash;
    i64 *ints;
    int32_t *codes;
    i64 *answer_start, *answer_length;
    byte *answer_kind;
    double *answer_number;
    int32_t *answer_code;
    double *score, *greatest;
    byte *bools;
    int8_t *state;
    double *numbers;
    // Names that came, by column of codes, and behind them the answers: where the first of its kind lies.
    i64 book_names;
    int32_t *book_slots;  // twice as many
    i64 *book_start, *book_length;
    byte *book_tag;
    i64 *book_count, *book_last;
    byte *is_numeric;
    i64 numeric_known;
    // Memory of the last rows.
    i64 *follows;  // by field the one behind it; the last two: the first of a message, of `columns`
    i64 *seen;     // by field the last message that had it
    i64 touched;   // behind the last row that was written
    const byte *data;
} Work;

static u64 mix(u64 word) {
    word ^= word >> 30;
    word *= 0xBF58476D1CE4E5B9u;
    word ^= word >> 27;
    word *= 0x94D049BB133111EBu;
    return word ^ word >> 31;
}

static u64 load(const byte *at, i64 length) {  // little-endian on every machine
    u64 word = 0;
    for (i64 one = 0; one < length; one++) word |= (u64)at[one] << 8 * one;
    return word;
}

static u64 text_hash(const byte *text, i64 length) {  // as `hashing.text_hashes`
    u64 total = (u64)length * 0x9E3779B97F4A7C15u, key = 0;
    for (i64 at = 0; at < length; at += 8) {
        key += 0x9E3779B97F4A7C15u;
        total += mix(load(text + at, length - at < 8 ? length - at : 8) ^ key);
    }
    return mix(total);
}

static i64 space(const byte *data, i64 at, i64 end) {
    while (at < end && (data[at] == ' ' || data[at] == '\n' || data[at] == '\r' || data[at] == '\t')) at++;
    return at;
}

static int is_digit(byte one) { return one >= '0' && one <= '9'; }

static int is_word(const byte *data, i64 at, i64 end, const char *word, i64 length) {
    return at + length <= end && memcmp(data + at, word, (size_t)length) == 0;
}

// Return where a character ends whose first byte is 128 or more.
static i64 character(const byte *data, i64 at, i64 end) {
    byte first = data[at];
    if (first < 0xC2 || first > 0xF4) return NOT_PLAIN;
    i64 more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    if (at + more >= end) return NOT_PLAIN;
    byte second = data[at + 1];
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return NOT_PLAIN;
    if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return NOT_PLAIN;
    for (i64 one = 1; one <= more; one++)
        if ((data[at + one] & 0xC0) != 0x80) return NOT_PLAIN;
    return at + more + 1;
}

// Return where the text ends that begins at `at`, behind its quote; one with escapes is not plain.
static i64 name_end(const byte *data, i64 at, i64 end) {
    while (at < end) {
        byte one = data[at];
        if (one == '"') return at;
        if (one < ' ' || one == '\\') return NOT_PLAIN;
        at = one < 128 ? at + 1 : character(data, at, end);
        if (at < 0) return NOT_PLAIN;
    }
    return NOT_PLAIN;
}

static int hex(byte one) {
    if (is_digit(one)) return one - '0';
    one |= 0x20;
    return one >= 'a' && one <= 'f' ? one - 'a' + 10 : -1;
}

// Return the code that an escape `\uXXXX` at `at` stands for, -1 where there is none.
static int escaped(const byte *data, i64 at, i64 end) {
    if (at + 6 > end || data[at] != '\\' || data[at + 1] != 'u') return -1;
    int code = 0;
    for (i64 digit = at + 2; digit < at + 6; digit++) {
        if (hex(data[digit]) < 0) return -1;
        code = code * 16 + hex(data[digit]);
    }
    return code;
}

// The same of a text that is not kept, in which escapes may be.
static i64 text_end(const byte *data, i64 at, i64 end) {
    while (at < end) {
        byte one = data[at];
        if (one == '"') return at;
        if (one < ' ') return NOT_PLAIN;
        if (one == '\\' && at + 1 < end && data[at + 1] == 'u') {
            int code = escaped(data, at, end);
            at += 6;
            if (code < 0 || (code >= 0xDC00 && code <= 0xDFFF)) return NOT_PLAIN;
            if (code >= 0xD800 && code <= 0xDBFF) {  // half of a character
                code = escaped(data, at, end);
                at += 6;
                if (code < 0xDC00 || code > 0xDFFF) return NOT_PLAIN;
            }
        } else if (one == '\\') {
            if (at + 1 >= end || !memchr("\"\\/bfnrt", data[at + 1], 8)) return NOT_PLAIN;
            at += 2;
        } else {
            at = one < 128 ? at + 1 : character(data, at, end);
            if (at < 0) return NOT_PLAIN;
        }
    }
    return NOT_PLAIN;
}

static void times(u64 one, u64 other, u64 *high, u64 *low) {
    u64 a = one >> 32, b = one & 0xFFFFFFFFu, c = other >> 32, d = other & 0xFFFFFFFFu;
    u64 bottom = b * d, middle = a * d + (bottom >> 32), last = b * c + (middle & 0xFFFFFFFFu);
    *high = a * c + (middle >> 32) + (last >> 32);
    *low = last << 32 | (bottom & 0xFFFFFFFFu);
}

// Make digits * 10**power a double, rounded to even; 0 where it is no normal one, or cannot be told here.
static int as_double(const Work *work, u64 digits, i64 power, double *value) {
    if (digits == 0) {
        *value = 0.0;
        return 1;
    }
    if (power < LEAST_POWER || power > MOST_POWER) return 0;
    i64 zeros = 0;
    while (!(digits >> 63)) digits <<= 1, zeros++;
    const u64 *five = work->powers + 2 * (power - LEAST_POWER);
    u64 high, low, more, rest;
    times(digits, five[0], &high, &low);
    if ((high & 0x1FF) == 0x1FF) {
        times(digits, five[1], &more, &rest);
        low += more;
        high += low < more;
    }
    if (low == UINT64_MAX && (power < -27 || power > 55)) return 0;
    u64 upper = high >> 63;
    u64 mantissa = high >> (upper + 9);
    i64 exponent = ((217706 * power) >> 16) + 63 + (i64)upper - zeros + 1023;
    if (exponent <= 0) return 0;
    if (low <= 1 && power >= -4 && power <= 23 && (mantissa & 3) == 1 && mantissa << (upper + 9) == high) mantissa &= ~(u64)1;
    mantissa = (mantissa + (mantissa & 1)) >> 1;
    if (mantissa >= (u64)1 << 53) mantissa = (u64)1 << 52, exponent++;
    if (exponent >= 0x7FF) return 0;
    u64 bits = (mantissa & (((u64)1 << 52) - 1)) | (u64)exponent << 52;
    memcpy(value, &bits, sizeof bits);
    return 1;
}

typedef struct {
    int written;
    i64 whole;
    double value;
} Number;

static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// Read a number that begins at `at`; return where it ends.
static i64 number(const Work *work, i64 at, i64 end, Number *found) {
    const byte *data = work->data;
    int negative = at < end && data[at] == '-', fraction = 0;
    at += negative;
    u64 digits = 0;
    i64 told = 0, first = at, power = 0;
    for (; at < end && is_digit(data[at]); at++) digits = digits * 10 + (data[at] - '0'), told += told || digits;
    if (at == first || (at - first > 1 && data[first] == '0') || told > MOST_DIGITS) return NOT_PLAIN;
    if (at < end && data[at] == '.') {
        fraction = 1;
        first = ++at;
        for (; at < end && is_digit(data[at]); at++) digits = digits * 10 + (data[at] - '0'), told += told || digits;
        if (at == first || told > MOST_DIGITS) return NOT_PLAIN;
        power = first - at;
    }
    if (at < end && (data[at] == 'e' || data[at] == 'E')) {
        fraction = 1;
        at++;
        int down = at < end && data[at] == '-';
        if (down || (at < end && data[at] == '+')) at++;
        i64 exponent = 0;
        first = at;
        for (; at < end && is_digit(data[at]) && at - first < 5; at++) exponent = exponent * 10 + (data[at] - '0');
        if (at == first || at - first > 4) return NOT_PLAIN;
        power += down ? -exponent : exponent;
    }
    if (!fraction) {
        if (told > MOST_DIGITS - 1) return NOT_PLAIN;
        found->written = WHOLE;
        found->whole = negative ? -(i64)digits : (i64)digits;
        found->value = (double)found->whole;
        return at;
    }
    double value;
    if (digits <= (u64)1 << 53 && power >= -22 && power <= 22)
        value = power < 0 ? (double)digits / TENS[-power] : (double)digits * TENS[power];
    else if (!as_double(work, digits, power, &value))
        return NOT_PLAIN;
    found->written = FRACTION;
    found->whole = 0;
    found->value = negative ? -value : value;
    return at;
}

// Return where a value ends that nobody asked for.
static i64 skipped(const Work *work, i64 at, i64 end) {
    const byte *data = work->data;
    u64 objects = 0;  // one bit a level
    i64 depth = 0;
    Number ignored;
    for (;;) {
        at = space(data, at, end);
        if (at >= end) return NOT_PLAIN;
        byte one = data[at];
        int opened = 0;
        if (one == '{' || one == '[') {
            if (depth == DEPTH) return NOT_PLAIN;
            objects = objects << 1 | (one == '{');
            depth++;
            at = space(data, at + 1, end);
            if (at >= end) return NOT_PLAIN;
            opened = data[at] != (one == '{' ? '}' : ']');
            if (!opened) at++, depth--, objects >>= 1;
        } else if (one == '"') {
            at = text_end(data, at + 1, end);
            if (at < 0) return NOT_PLAIN;
            at++;
        } else if (one == '-' || is_digit(one)) {
            at = number(work, at, end, &ignored);
            if (at < 0) return NOT_PLAIN;
        } else if (is_word(data, at, end, "true", 4) || is_word(data, at, end, "null", 4)) {
            at += 4;
        } else if (is_word(data, at, end, "false", 5)) {
            at += 5;
        } else {
            return NOT_PLAIN;
        }
        while (depth > 0 && !opened) {
            at = space(data, at, end);
            if (at >= end) return NOT_PLAIN;
            if (data[at] == ',') {
                at = space(data, at + 1, end);
                opened = 1;
            } else if (data[at] == (objects & 1 ? '}' : ']')) {
                at++, depth--, objects >>= 1;
            } else {
                return NOT_PLAIN;
            }
        }
        if (depth == 0) return at;
        if (objects & 1) {  // the key of what comes next
            if (at >= end || data[at] != '"') return NOT_PLAIN;
            at = text_end(data, at + 1, end);
            if (at < 0) return NOT_PLAIN;
            at = space(data, at + 1, end);
            if (at >= end || data[at] != ':') return NOT_PLAIN;
            at++;
        }
    }
}

static u64 short_hash(const byte *text, i64 length, u64 seed) {  // FNV-1a
    u64 code = 0xCBF29CE484222325u ^ seed;
    for (i64 one = 0; one < length; one++) code = (code ^ text[one]) * 0x100000001B3u;
    return code ^ code >> 32;
}

// Return the field of a name that stands in a place; -1 where nobody asked for it.
static i64 field_of(const Work *work, const byte *text, i64 length, i64 scope) {
    i64 slot = (i64)(short_hash(text, length, (u64)scope) & (u64)work->slot_mask);
    for (; work->slots[slot]; slot = (slot + 1) & work->slot_mask) {
        i64 field = work->slots[slot] - 1;
        if (work->scope[field] == scope && work->length[field] == length &&
            memcmp(text, work->names + work->start[field], (size_t)length) == 0)
            return field;
    }
    return -1;
}

// Read a key and its colon; return where its value begins. `field` is -1 where nobody asked for it.
static i64 key(Work *work, i64 at, i64 end, i64 scope, i64 before, i64 *field) {
    const byte *data = work->data;
    if (at >= end || data[at] != '"') return NOT_PLAIN;
    i64 start = ++at, guess = work->follows[before];
    if (guess >= 0 && work->scope[guess] == scope && at + work->length[guess] < end && data[at + work->length[guess]] == '"' &&
        memcmp(data + at, work->names + work->start[guess], (size_t)work->length[guess]) == 0) {
        *field = guess;
        at += work->length[guess];
    } else {
        at = name_end(data, start, end);
        if (at < 0) return NOT_PLAIN;
        *field = field_of(work, data + start, at - start, scope);
        if (*field >= 0) work->follows[before] = *field;
    }
    at = space(data, at + 1, end);
    if (at >= end || data[at] != ':') return NOT_PLAIN;
    return space(data, at + 1, end);
}

// Return the number of a name in a column's book, or FULL.
static i64 code_of(Work *work, i64 start, i64 length, int tag, i64 column) {
    const byte *data = work->data;
    i64 *starts = work->book_start + column * work->book_names, *lengths = work->book_length + column * work->book_names;
    byte *tags = work->book_tag + column * work->book_names;
    i64 last = work->book_last[column];
    if (last >= 0 && lengths[last] == length && tags[last] == tag &&
        memcmp(data + start, data + starts[last], (size_t)length) == 0)
        return last;
    i64 mask = 2 * work->book_names - 1;
    int32_t *slots = work->book_slots + column * (mask + 1);
    i64 slot = (i64)(short_hash(data + start, length, (u64)tag) & (u64)mask);
    for (; slots[slot]; slot = (slot + 1) & mask) {
        i64 code = slots[slot] - 1;
        if (lengths[code] == length && tags[code] == tag &&
            memcmp(data + start, data + starts[code], (size_t)length) == 0)
            return work->book_last[column] = code;
    }
    i64 code = work->book_count[column];
    if (code == work->book_names) return FULL;
    slots[slot] = (int32_t)(code + 1);
    starts[code] = start;
    lengths[code] = length;
    tags[code] = (byte)tag;
    work->book_count[column]++;
    return work->book_last[column] = code;
}

// Read the value of a field into a row; return where it ends.
static i64 put(Work *work, i64 at, i64 end, i64 field, i64 row, int in_column) {
    const byte *data = work->data;
    if (at >= end) return NOT_PLAIN;
    i64 kind = work->kind[field], column = work->column[field], start = at, code;
    byte one = data[at];
    int is_number = one == '-' || is_digit(one);
    Number found;
    if (one == '"') {
        at = name_end(data, ++start, end);
        if (at < 0) return NOT_PLAIN;
    } else if (is_number) {
        at = number(work, at, end, &found);
        if (at < 0) return NOT_PLAIN;
    } else if (is_word(data, at, end, "null", 4)) {
        if (kind == FEATURE) work->state[column * work->rows + row] = STATE_NULL;
        return kind == FEATURE || (in_column && work->nullable[field]) ? at + 4 : NOT_PLAIN;
    }
    i64 length = at - start;
    switch (kind) {
        case FEATURE:
            if (is_number) {
                work->state[column * work->rows + row] = STATE_NUMBER;
                work->numbers[column * work->rows + row] = found.value;
                return at;
            }
            if (one != '"') return NOT_PLAIN;
            code = code_of(work, start, length, 0, work->low[field]);
            if (code < 0) return FULL;
            work->state[column * work->rows + row] = STATE_NAME;
            work->codes[work->low[field] * work->rows + row] = (int32_t)code;
            return at + 1;
        case ID:
        case NAME:
            if (kind == NAME && work->high[field] == OF_MODELS && length == 6 && is_word(data, start, end, "tocsin", 6)) {
                return NOT_PLAIN; // a name that is nobody's
            }
            if (one != '"' || length < work->low[field] || (work->low[field] && length > MOST_NAME_BYTES)) return NOT_PLAIN;
            if (kind == ID) {
                work->id_start[row] = start;
                work->id_length[row] = length;
                work->id_hash[row] = text_hash(data + start, length);
            } else if (length || work->high[field] != EMPTY_IS_ABSENT) {
                code = code_of(work, start, length, 0, column);
                if (code < 0) return FULL;
                work->codes[column * work->rows + row] = (int32_t)code;
                if (work->high[field] == OF_MODELS && code == work->numeric_known) {
                    work->is_numeric[code] = field_of(work, data + start, length, NUMERIC_MODEL) >= 0;
                    work->numeric_known++;
                }
            }
            return at + 1;
        case CHOICE:
            return one == '"' && field_of(work, data + start, length, CHOSEN) >= 0 ? at + 1 : NOT_PLAIN;
        case ANSWER:
            if (!is_number && one != '"') return NOT_PLAIN;
            work->answer_start[row] = start;
            work->answer_length[row] = length;
            work->answer_kind[row] = is_number ? (byte)found.written : TEXT;
            work->answer_number[row] = is_number ? found.value : 0.0;
            return is_number ? at : at + 1;
        case INT:
            if (!is_number || found.written != WHOLE || found.whole < work->low[field] || found.whole > work->high[field])
                return NOT_PLAIN;
            work->ints[column * work->rows + row] = found.whole;
            return at;
        case SHARE:
            if (!is_number || !(found.value >= 0.0 && found.value <= 1.0)) return NOT_PLAIN;
            work->score[row] = found.value;
            return at;
        case BOOL:
            work->bools[column * work->rows + row] = one == 't';
            if (is_word(data, at, end, "true", 4)) return at + 4;
            return is_word(data, at, end, "false", 5) ? at + 5 : NOT_PLAIN;
        default:
            return NOT_PLAIN;
    }
}

static void clear(Work *work, i64 first, i64 behind) {
    for (i64 row = first; row < behind; row++) {
        for (i64 column = 0; column < work->int_columns; column++) work->ints[column * work->rows + row] = -1;
        for (i64 column = 0; column < work->code_columns; column++) work->codes[column * work->rows + row] = -1;
        for (i64 column = 0; column < work->bool_columns; column++) work->bools[column * work->rows + row] = 0;
        for (i64 column = 0; column < work->feature_columns; column++) {
            work->state[column * work->rows + row] = STATE_ABSENT;
            work->numbers[column * work->rows + row] = NAN;
        }
        work->answer_code[row] = -1;
        work->score[row] = work->greatest[row] = NAN;
    }
}

// Step behind a comma, or behind the end of what it separates: then `last` is set.
static i64 next(const byte *data, i64 at, i64 end, byte closing, int *last) {
    at = space(data, at, end);
    if (at >= end) return NOT_PLAIN;
    *last = data[at] == closing;
    if (*last) return at + 1;
    return data[at] == ',' ? space(data, at + 1, end) : NOT_PLAIN;
}

// Open an object or list; `last` is set where it is empty.
static i64 open(const byte *data, i64 at, i64 end, byte opening, byte closing, int *last) {
    if (at >= end || data[at] != opening) return NOT_PLAIN;
    at = space(data, at + 1, end);
    *last = at < end && data[at] == closing;
    return at + *last;
}

// Read `segments` or `features` of a row.
static i64 group(Work *work, i64 at, i64 end, i64 field, i64 row, i64 stamp) {
    i64 scope = work->kind[field] == SEGMENTS ? SEGMENT : INNER_FEATURE, before = field, inner;
    int last;
    at = open(work->data, at, end, '{', '}', &last);
    while (at >= 0 && !last) {
        at = key(work, at, end, scope, before, &inner);
        if (at < 0) return NOT_PLAIN;
        if (inner < 0) {
            at = skipped(work, at, end);
        } else {
            if (work->seen[inner] == stamp) return NOT_PLAIN;
            work->seen[inner] = stamp;
            before = inner;
            at = put(work, at, end, inner, row, 0);
        }
        if (at < 0) return at;
        at = next(work->data, at, end, '}', &last);
    }
    return at;
}

// Read the greatest of the probabilities of a row.
static i64 probabilities(Work *work, i64 at, i64 end, i64 row) {
    const byte *data = work->data;
    i64 starts[MOST_CLASSES], lengths[MOST_CLASSES], classes = 0;
    double greatest = -1.0;
    Number found;
    int last;
    at = open(data, at, end, '{', '}', &last);
    while (at >= 0 && !last) {
        if (at >= end || data[at] != '"' || classes == MOST_CLASSES) return NOT_PLAIN;
        i64 start = at + 1;
        at = name_end(data, start, end);
        if (at < 0) return NOT_PLAIN;
        for (i64 one = 0; one < classes; one++)
            if (lengths[one] == at - start && memcmp(data + starts[one], data + start, (size_t)lengths[one]) == 0) return NOT_PLAIN;
        starts[classes] = start;
        lengths[classes++] = at - start;
        at = space(data, at + 1, end);
        if (at >= end || data[at] != ':') return NOT_PLAIN;
        at = number(work, space(data, at + 1, end), end, &found);
        if (at < 0 || !(found.value >= 0.0 && found.value <= 1.0)) return NOT_PLAIN;
        if (found.value > greatest) greatest = found.value;
        at = next(data, at, end, '}', &last);
    }
    if (at >= 0 && classes) work->greatest[row] = greatest;
    return at;
}

// Read `columns` from row `first` on.
static i64 columns(Work *work, i64 at, i64 end, i64 first, i64 stamp, i64 *count) {
    const byte *data = work->data;
    i64 before = work->fields + 1, field;
    int last, ended;
    *count = -1;
    at = open(data, at, end, '{', '}', &last);
    while (at >= 0 && !last) {
        i64 start = at + 1;
        at = key(work, at, end, COLUMN, before, &field);
        if (at < 0) return NOT_PLAIN;
        if (field < 0) {
            if (is_word(data, start, end, "probabilities.", 14)) return NOT_PLAIN;
            at = skipped(work, at, end);
        } else {
            if (work->seen[field] == stamp) return NOT_PLAIN;
            work->seen[field] = stamp;
            before = field;
            i64 row = first;
            at = open(data, at, end, '[', ']', &ended);
            while (at >= 0 && !ended) {
                if (row - first == MOST_ROWS) return NOT_PLAIN;
                if (row == work->rows) return FULL;
                if (row == work->touched) clear(work, row, ++work->touched);
                at = put(work, at, end, field, row++, 1);
                if (at < 0) return at;
                at = next(data, at, end, ']', &ended);
            }
            if (at >= 0 && *count >= 0 && *count != row - first) return NOT_PLAIN;
            *count = row - first;
        }
        if (at < 0) return at;
        at = next(data, at, end, '}', &last);
    }
    return at;
}

// Settle the answers of rows whose models are known.
static i64 answers(Work *work, i64 first, i64 count) {
    for (i64 row = first; row < first + count; row++) {
        int kind = work->answer_kind[row];
        if (work->is_numeric[work->codes[row]]) {
            if (kind == TEXT || fabs(work->answer_number[row]) > GREATEST_SINGLE) return NOT_PLAIN;
        } else {
            i64 code = code_of(work, work->answer_start[row], work->answer_length[row], kind, work->code_columns);
            if (code < 0) return FULL;
            work->answer_code[row] = (int32_t)code;
        }
    }
    return count;
}

// Read a message from a row on; return how many rows it has, NOT_PLAIN or FULL.
static i64 message(Work *work, i64 at, i64 end, i64 row, i64 stamp) {
    const byte *data = work->data;
    i64 before = work->fields, required = 0, fields = 0, rows = -1, count = -1, field;
    Number found;
    int last;
    at = open(data, space(data, at, end), end, '{', '}', &last);
    if (at < 0 || last) return NOT_PLAIN;
    while (!last) {
        at = key(work, at, end, ROW, before, &field);
        if (at < 0) return NOT_PLAIN;
        if (field < 0) {
            at = skipped(work, at, end);
        } else {
            if (work->seen[field] == stamp) return NOT_PLAIN;
            work->seen[field] = stamp;
            before = field;
            switch (work->kind[field]) {
                case ROWS:
                    at = number(work, at, end, &found);
                    if (at < 0 || found.written != WHOLE || found.whole < 1 || found.whole > MOST_ROWS) return NOT_PLAIN;
                    rows = found.whole;
                    break;
                case COLUMNS:
                    if (fields) return NOT_PLAIN;
                    at = columns(work, at, end, row, stamp, &count);
                    break;
                case SEGMENTS:
                case FEATURES:
                    fields++;
                    at = group(work, at, end, field, row, stamp);
                    break;
                case PROBABILITIES:
                    fields++;
                    at = probabilities(work, at, end, row);
                    break;
                default:
                    fields++;
                    required += work->required[field];
                    at = put(work, at, end, field, row, 0);
            }
        }
        if (at < 0) return at;
        at = next(data, at, end, '}', &last);
        if (at < 0) return NOT_PLAIN;
    }
    if (space(data, at, end) != end) return NOT_PLAIN;
    if (!fields) {
        if (count < 1 || count != rows) return NOT_PLAIN;
        for (field = 0; field < work->fields; field++)
            if (work->scope[field] == COLUMN && work->required[field] && work->seen[field] != stamp) return NOT_PLAIN;
        return answers(work, row, count);
    }
    return required == work->needed && rows < 0 && count < 0 ? answers(work, row, 1) : NOT_PLAIN;
}

// Fill the hash table of the names that are looked for.
void prepare(Work *work) {
    for (i64 field = 0; field < work->fields; field++) {
        u64 code = short_hash(work->names + work->start[field], work->length[field], (u64)work->scope[field]);
        i64 slot = (i64)(code & (u64)work->slot_mask);
        while (work->slots[slot]) slot = (slot + 1) & work->slot_mask;
        work->slots[slot] = (int32_t)(field + 1);
    }
}

// Read all plain messages; message i lies at [starts[i], starts[i + 1]) and has of_message[i] rows, 0 where it is not plain.
// Return how many rows there are, or FULL: then nothing counts, and more room is to be given.
i64 scan(Work *work, const byte *data, const i64 *starts, i64 messages, i64 *of_message) {
    i64 row = 0;
    work->data = data;
    work->touched = 0;
    for (i64 one = 0; one < messages; one++) {
        if (row == work->rows) return FULL;
        if (row == work->touched) clear(work, row, ++work->touched);
        i64 count = message(work, starts[one], starts[one + 1], row, one + 1);
        if (count == FULL) return FULL;
        if (count > 0) {
            row += count;
        } else {
            work->touched = row;  // what it wrote is cleared when a row comes there
            count = 0;
        }
        of_message[one] = count;
    }
    return row;
}
