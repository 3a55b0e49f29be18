/* Prints the class of a picture: a PGM file (P5) for a grey model and a PPM file (P6) for a coloured one, of 8 bits, or
 * the bytes of the pixels alone, row by row.
 *
 *     cc example.c model.c -o classify
 *     ./classify picture.pgm
 *
 * The picture has the size that the model takes, and is prepared as its training images were.
 */

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "model.h"

#if MODEL_NUM_CHANNELS == 3
#define FORMAT "PPM"
#define MAGIC "P6"
#define BYTES_OF_EACH "three"
#else
#define FORMAT "PGM"
#define MAGIC "P5"
#define BYTES_OF_EACH "one"
#endif
#define NUM_PIXELS (MODEL_IMAGE_SIZE_PX * MODEL_IMAGE_SIZE_PX)
#define NUM_BYTES (NUM_PIXELS * MODEL_NUM_CHANNELS)
#define LONGEST_HEADER 4096

/* Reads the next number of a header, past spaces and comments; -1 if there is none below 65536. */
static long read_number(const uint8_t *file, size_t length, size_t *at)
{
    long number = 0;
    size_t start;

    while (*at < length && (isspace(file[*at]) || file[*at] == '#')) {
        if (file[*at] == '#') {
            while (*at < length && file[*at] != '\n') {
                ++*at;
            }
        } else {
            ++*at;
        }
    }
    for (start = *at; *at < length && isdigit(file[*at]) && number < 65536; ++*at) {
        number = 10 * number + (file[*at] - '0');
    }
    return *at > start && number < 65536 ? number : -1;
}

/* Finds the pixels of a file, and says what is wrong where it cannot: NULL. */
static const uint8_t *find_pixels(const char *name, const uint8_t *file, size_t length)
{
    size_t at = 2;
    long width, height, brightest;

    if (length < 2 || memcmp(file, MAGIC, 2) != 0) {
        if (length == NUM_BYTES) {
            return file;
        }
        fprintf(stderr,
                "error: %s: expected a " FORMAT " file (" MAGIC ") or %d bytes, " BYTES_OF_EACH
                " for each of %d x %d pixels; got %lu bytes%s\n",
                name, NUM_BYTES, MODEL_IMAGE_SIZE_PX, MODEL_IMAGE_SIZE_PX, (unsigned long)length,
                length > NUM_BYTES ? " or more" : "");
        return NULL;
    }
    width = read_number(file, length, &at);
    height = read_number(file, length, &at);
    brightest = read_number(file, length, &at);
    if (width != MODEL_IMAGE_SIZE_PX || height != MODEL_IMAGE_SIZE_PX || brightest != 255) {
        fprintf(stderr, "error: %s: expected %d x %d pixels of 0 to 255; got %ld x %ld of 0 to %ld (-1: no number)\n",
                name, MODEL_IMAGE_SIZE_PX, MODEL_IMAGE_SIZE_PX, width, height, brightest);
        return NULL;
    }
    ++at; /* one space ends the header */
    if (length < at + NUM_BYTES) {
        fprintf(stderr, "error: %s: expected %d pixels; the file ends before\n", name, NUM_PIXELS);
        return NULL;
    }
    return file + at;
}

int main(int argc, char **argv)
{
    static uint8_t file[LONGEST_HEADER + NUM_BYTES];
    static uint32_t buffer[(MODEL_BUFFER_BYTES + 3) / 4]; /* of words: the model wants it aligned */
    const uint8_t *pixels;
    size_t length;
    FILE *stream;

    if (argc != 2) {
        fprintf(stderr, "usage: %s PICTURE\n", argv[0]);
        return 2;
    }
    stream = fopen(argv[1], "rb");
    if (stream == NULL) {
        fprintf(stderr, "error: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    length = fread(file, 1, sizeof file, stream);
    fclose(stream);
    pixels = find_pixels(argv[1], file, length);
    if (pixels == NULL) {
        return 1;
    }
    puts(model_class_names[model_classify(pixels, buffer)]);
    return 0;
}
