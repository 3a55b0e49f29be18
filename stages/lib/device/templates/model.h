/* A neural network of {{ dense_macs | number }} multiply-accumulates for an image, of which {{ macs | number }} remain without its zeros.

   model_run takes an image of {{ image.shape | shape }} int8, row by row{{ ", red, green and blue of each pixel" if image.shape[2] == 3 }}: values in [0, 1], each as
   value / MODEL_INPUT_SCALE + MODEL_INPUT_ZERO_POINT. It gives the int8 logits of the classes, which stand for
   (logit - MODEL_OUTPUT_ZERO_POINT) * MODEL_OUTPUT_SCALE.

   model_classify takes as many bytes in that order, 0 to 255, prepared as the training images were. It returns the index
   of the largest logit, the first one of equal ones.

   All working memory is `buffer`: MODEL_BUFFER_BYTES with any content, aligned to 4. Calls with different buffers can
   run at the same time. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_IMAGE_SIZE_PX {{ image.shape[0] }}
#define MODEL_NUM_CHANNELS {{ image.shape[2] }}
#define MODEL_NUM_CLASSES {{ class_names | length }}

#define MODEL_BUFFER_BYTES {{ buffer_bytes }}
#define MODEL_WEIGHTS_BYTES {{ weights_bytes }} /* of all constant tables */
#define MODEL_MACS {{ macs }} /* multiply-accumulates for an image */
#define MODEL_DENSE_MACS {{ dense_macs }} /* if no zero were skipped */

#define MODEL_INPUT_SCALE {{ image.scale | c_float }}
#define MODEL_INPUT_ZERO_POINT ({{ image.zero_point }})
#define MODEL_OUTPUT_SCALE {{ logits.scale | c_float }}
#define MODEL_OUTPUT_ZERO_POINT ({{ logits.zero_point }})

extern const char *const model_class_names[MODEL_NUM_CLASSES]; /* UTF-8 */

void model_run(const int8_t *image, int8_t *logits, void *buffer);

int model_classify(const uint8_t *pixels, void *buffer);

#ifdef __cplusplus
}
#endif

#endif
