/* A Modbus server by Debian's libmodbus, over TCP. Values are encoded by libmodbus's own functions.
 *
 * Argument: the port. Says {"ready": true}; takes orders as lines of JSON, each answered by a line:
 *   {"set": {"table": "holding", "start": 0, "words": [1, 2]}}
 *   {"get": {"table": "holding", "start": 0, "count": 2}}
 *   {"float": {"order": "cdab", "start": 10, "value": 1.5}}     in input and holding registers, by libmodbus's own function
 * 100 coils, 100 discrete inputs, 300 holding and 300 input registers, whatever the unit. Keys are found by their names, in any order.
 *
 * cc -o server libmodbus.c -lmodbus
 */
#include <errno.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

/* By what goes over the wire. Up to 3.1.6 (Debian 12) libmodbus names its orders by the bytes in the memory of a little-endian host, and each
 * word goes out the other way round; 3.1.7 mended the names. */
#if LIBMODBUS_VERSION_CHECK(3, 1, 7)
#define WIRE_ABCD modbus_set_float_abcd
#define WIRE_BADC modbus_set_float_badc
#define WIRE_CDAB modbus_set_float_cdab
#define WIRE_DCBA modbus_set_float_dcba
#else
#define WIRE_ABCD modbus_set_float_badc
#define WIRE_BADC modbus_set_float_abcd
#define WIRE_CDAB modbus_set_float_dcba
#define WIRE_DCBA modbus_set_float_cdab
#endif

enum { BITS = 100, WORDS = 300 };

static modbus_mapping_t *map;

/* The text behind "key":, or NULL. */
static const char *behind(const char *line, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(line, quoted);
    return at ? at + strlen(quoted) : NULL;
}

static long number(const char *line, const char *key) {
    const char *at = behind(line, key);
    return at ? strtol(at, NULL, 10) : -1;
}

static int is(const char *line, const char *key, const char *text) {
    const char *at = behind(line, key);
    return at && *at == '"' && strncmp(at + 1, text, strlen(text)) == 0 && at[1 + strlen(text)] == '"';
}

/* One value of a table: set where `value` is not NULL. -1: there is none. */
static int cell(const char *line, long at, const long *value) {
    uint8_t *bits = is(line, "table", "coil") ? map->tab_bits : is(line, "table", "discrete") ? map->tab_input_bits : NULL;
    uint16_t *words = is(line, "table", "holding") ? map->tab_registers : is(line, "table", "input") ? map->tab_input_registers : NULL;
    if (bits && at >= 0 && at < BITS) {
        if (value) bits[at] = *value != 0;
        return bits[at];
    }
    if (words && at >= 0 && at < WORDS) {
        if (value) words[at] = (uint16_t)*value;
        return words[at];
    }
    return -1;
}

static void set(const char *line) {
    long at = number(line, "start");
    const char *list = behind(line, "words");
    if (!list) {
        puts("{\"failed\": \"no words\"}");
        return;
    }
    for (char *end = (char *)list; *end == '[' || *end == ',';) {
        long value = strtol(end + 1, &end, 10);
        if (cell(line, at++, &value) < 0) {
            puts("{\"failed\": \"no such place\"}");
            return;
        }
    }
    puts("{\"done\": \"set\"}");
}

static void get(const char *line) {
    long at = number(line, "start"), count = number(line, "count");
    fputs("{\"done\": \"get\", \"words\": [", stdout);
    for (long n = 0; n < count; n++) printf("%s%d", n ? ", " : "", cell(line, at + n, NULL));
    puts("]}");
}

static void set_float(const char *line) {
    long at = number(line, "start");
    const char *text = behind(line, "value");
    if (!text || at < 0 || at > WORDS - 2) {
        puts("{\"failed\": \"no such place\"}");
        return;
    }
    float value = strtof(text, NULL);
    void (*store)(float, uint16_t *) = is(line, "order", "abcd")   ? WIRE_ABCD
                                       : is(line, "order", "badc") ? WIRE_BADC
                                       : is(line, "order", "cdab") ? WIRE_CDAB
                                                                   : WIRE_DCBA;
    store(value, map->tab_registers + at);
    store(value, map->tab_input_registers + at);
    puts("{\"done\": \"float\"}");
}

static void obey(const char *line) {
    if (behind(line, "set")) set(line);
    else if (behind(line, "get")) get(line);
    else if (behind(line, "float")) set_float(line);
    else puts("{\"failed\": \"no such order\"}");
}

/* Takes whole lines off standard input; 0 at its end. */
static int orders(void) {
    static char held[65536];
    static size_t length;
    ssize_t got = read(STDIN_FILENO, held + length, sizeof held - 1 - length);
    if (got <= 0) return 0;
    length += (size_t)got;
    held[length] = 0;
    char *end;
    while ((end = strchr(held, '\n'))) {
        *end = 0;
        obey(held);
        length -= (size_t)(end + 1 - held);
        memmove(held, end + 1, length + 1);
    }
    return 1;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    modbus_t *line = modbus_new_tcp("127.0.0.1", atoi(arguments[1]));
    map = modbus_mapping_new(BITS, BITS, WORDS, WORDS);
    int listening = line && map ? modbus_tcp_listen(line, 8) : -1;
    if (listening < 0) {
        fprintf(stderr, "cannot listen on %s: %s\n", arguments[1], modbus_strerror(errno));
        return 1;
    }
    puts("{\"ready\": true}");
    fd_set watched;
    FD_ZERO(&watched);
    FD_SET(STDIN_FILENO, &watched);
    FD_SET(listening, &watched);
    int highest = listening;
    for (;;) {
        fd_set ready = watched;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0) return 1;
        for (int one = 0; one <= highest; one++) {
            if (!FD_ISSET(one, &ready)) continue;
            if (one == STDIN_FILENO) {
                if (!orders()) return 0;
            } else if (one == listening) {
                int made = modbus_tcp_accept(line, &listening);
                if (made < 0) continue;
                FD_SET(made, &watched);
                if (made > highest) highest = made;
            } else {
                uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
                modbus_set_socket(line, one);
                int length = modbus_receive(line, query);
                if (length > 0) {
                    modbus_reply(line, query, length, map);
                } else if (length < 0) {
                    close(one);
                    FD_CLR(one, &watched);
                }
            }
        }
    }
}
