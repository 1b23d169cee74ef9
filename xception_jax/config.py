"""Every setting of a run, with its default: the one place where they are named.

The files in `configs/` start from `default()` and change what their experiment changes. A duration is a text, a number
and a unit: "500 steps", "2 epochs" or "3000000 examples".
"""

from ml_collections import ConfigDict, config_dict


def default() -> ConfigDict:
    """The settings that all experiments start from."""
    c = ConfigDict()
    c.seed = 0  # parameters, order of the data, augmentation and dropout all follow from it
    c.image_size = 299  # pixels, height and width
    c.batch_size = 32  # of all devices together
    c.num_epochs = 100.0  # length of training; num_steps or num_examples, where set, are used instead
    c.num_steps = config_dict.placeholder(int)
    c.num_examples = config_dict.placeholder(int)

    c.model = m = ConfigDict()  # an option left None has the model's own default
    m.name = "xception"
    m.num_classes = config_dict.placeholder(int)  # None: as many as the data has
    m.dtype = "float32"  # what layers compute in: float32 or bfloat16
    m.param_dtype = "float32"
    m.stem = config_dict.placeholder(str)  # "imagenet", or "small" for pictures from 32 pixels
    m.dropout = config_dict.placeholder(float)
    m.hidden = config_dict.placeholder(tuple)  # widths of fully connected layers before the logits
    m.width = config_dict.placeholder(float)  # multiplies the channel counts
    m.bn_epsilon = config_dict.placeholder(float)
    m.bn_momentum = config_dict.placeholder(float)
    m.residual = config_dict.placeholder(bool)  # xception
    m.between = config_dict.placeholder(str)  # xception: none, relu or elu between depthwise and pointwise
    m.pool_padding = config_dict.placeholder(str)  # xception: same or symmetric
    m.flavour = config_dict.placeholder(str)  # inception_v3: torchvision, keras or paper
    m.aux_head = config_dict.placeholder(bool)  # inception_v3

    c.data = d = ConfigDict()
    d.name = "imagenet2012"  # a TFDS data set, or "folder", "digits", "synthetic"
    d.path = ""  # folder: it holds split/class/picture
    d.data_dir = ""  # TFDS: where prepared data sets are; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    d.train_split = "train"
    d.validation_split = "validation"  # evaluated on the way; chooses the best checkpoint
    d.test_split = "validation"  # evaluated at the end
    d.crop_area = (0.08, 1.0)  # training crops: share of the picture's area
    d.crop_aspect = (3 / 4, 4 / 3)  # training crops: width over height
    d.flip = True  # training: mirror half of the pictures
    d.crop_fraction = 0.875  # evaluation: share of the side that the central crop keeps
    d.interpolation = "bilinear"  # bilinear, bicubic or area
    d.on_broken = "skip"  # a picture that cannot be decoded: "skip" (named and counted) or "fail"
    d.num_threads = 0  # decoding threads; 0: one a core
    d.num_examples = 1024  # synthetic: pictures a split
    d.num_classes = 1000  # synthetic

    c.learning_rate = 0.045  # the highest of the schedule
    c.schedule = s = ConfigDict()
    s.name = "exponential"  # exponential, cosine or constant
    s.warmup = "0 steps"  # linear, from 0
    s.decay_rate = 0.94  # exponential: factor every decay_every
    s.decay_every = "2 epochs"
    s.staircase = True  # exponential: in steps, not continuously
    s.final_fraction = 0.0  # cosine: of the learning rate, reached at the end

    c.optimizer = o = ConfigDict()
    o.name = "sgd"  # sgd, rmsprop, adamw or lamb
    o.momentum = 0.9  # sgd, rmsprop; adamw, lamb: beta 1
    o.nesterov = False  # sgd
    o.decay = 0.9  # rmsprop: of the mean square; adamw, lamb: beta 2
    o.epsilon = 1.0  # rmsprop, adamw, lamb
    o.weight_decay = 1e-5  # on kernels only. sgd, rmsprop: added to the gradient (L2); adamw, lamb: decoupled
    o.clip_norm = config_dict.placeholder(float)  # largest norm of the whole gradient
    o.accumulate_steps = 1  # parts that a batch is worked on in, to save memory; each has its own batch statistics

    c.label_smoothing = 0.0  # probability mass spread evenly over all classes
    c.aux_loss_weight = 0.4  # inception_v3 with an auxiliary head
    c.average_decay = 0.9999  # Polyak averaging of weights and batch statistics; 0: none

    c.log_every = "50 steps"
    c.evaluation = e = ConfigDict()
    e.every = "1 epochs"
    e.batch_size = config_dict.placeholder(int)  # None: as in training
    e.averaged = True  # evaluate averaged weights, as the paper does
    c.checkpoint = k = ConfigDict()
    k.every = "1 epochs"
    k.keep_last = 3
    k.keep_best = 1
    k.best_metric = "top1"  # of the validation split: top1, top5 or loss
    return c
