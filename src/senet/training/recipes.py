"""The recipes of the package, derived from each other.

Example:
    >>> from senet.training import RECIPES
    >>> sorted(RECIPES)[:4]
    ['cifar', 'cifar10_fast', 'cifar_paper', 'cifar_quick']
    >>> RECIPES["imagenet"].step_epochs
    (30, 60, 90)
"""

from __future__ import annotations

from dataclasses import replace

from senet.data.augmentation import Augmentation
from senet.errors import UnknownNameError
from senet.training.recipe import Recipe

__all__ = ["FINETUNE", "RECIPES", "fine_tuning", "finetune_for", "recipe_for", "recipe_named"]

cifar = Recipe(
    epochs=30,
    batch_size=128,
    lr=0.1,
    weight_decay=5e-4,
    schedule="one-cycle",
    warmup_epochs=6,
    augmentation=Augmentation(crop="pad", hflip=0.5),
)
# Ten epochs underfit a small network. More and larger steps, less weight decay and milder crops than for a long
# training help (benchmarks/cifar10_quick.md).
cifar_quick = replace(
    cifar,
    epochs=10,
    batch_size=64,
    lr=0.4,
    weight_decay=2e-4,
    warmup_epochs=2,
    augmentation=replace(cifar.augmentation, pad=2),
    expects="se_cifar_resnet20 on CIFAR-10 stored as JPEG of quality 75: 84.9% top-1, with "
    "--attention se:reduction=4,init=identity 85.4%, half an hour on 2 CPU cores",
)
# For 90 minutes on two CPU cores. Fast CIFAR-10 trainings use a network with early downsampling and wide stages, one
# cycle of a high learning rate, label smoothing, mild crops and averaged weights. See Page 2018, "How to train your
# ResNet", and Jordan 2024, arXiv 2404.00498. This package's closest network is a half-width ResNet-18:
#   --model se_cifar_resnet20 --model-kwargs depth=2 --model-kwargs widths=[32,64,128,256]
#   --model-kwargs projection=true
# It has 137M MACs, three times ResNet-20's, and ten times its parameters.
cifar10_fast = replace(
    cifar,
    epochs=14,
    lr=0.2,
    warmup_epochs=3,
    label_smoothing=0.1,
    ema_decay=0.998,
    augmentation=replace(cifar.augmentation, pad=2),
    expects="SE, depth 2, widths 32 to 256, on CIFAR-10: 91.3% top-1, an hour on one CPU core in bf16; stored as "
    "JPEG of quality 75: 87.9%, 101 minutes on 2 cores in float32 (aim: 93% in 90)",
)
# He et al. 2016 (arXiv 1512.03385), section 4.2: 64k iterations of 128 images = 164 epochs. The SE paper takes
# "other hyperparameters as in each original paper".
cifar_paper = replace(
    cifar,
    epochs=164,
    lr=0.1,
    weight_decay=1e-4,
    schedule="step",
    warmup_epochs=0,
    step_epochs=(82, 123),
    expects="cifar_resnet110: 6.37% error, with SE 5.21% (paper, Table 4)",
)
digits = Recipe(
    epochs=30,
    batch_size=64,
    lr=0.1,
    weight_decay=5e-4,
    schedule="one-cycle",
    warmup_epochs=6,
    label_smoothing=0.1,
    augmentation=Augmentation(crop="none", hflip=0, rotation=10, translate=0.1),
    expects="se_cifar_resnet20: at least 98% of the 360 test digits, 2 minutes on 2 CPU cores",
)
photos = Recipe(
    epochs=90,
    batch_size=64,
    lr=0.05,
    weight_decay=1e-4,
    schedule="cosine",
    warmup_epochs=5,
    label_smoothing=0.1,
    ema_decay=0.999,
    augmentation=Augmentation(
        crop="random-resized", scale=(0.25, 1.0), hflip=0.5, color_jitter=0.2, random_erasing=0.1
    ),
)
# The paper's ImageNet training (section 6.1). It doesn't state the weight decay. The successors of its code use 1e-4.
imagenet = Recipe(
    epochs=100,
    batch_size=1024,
    lr=0.6,
    weight_decay=1e-4,
    schedule="step",
    warmup_epochs=0,
    step_epochs=(30, 60, 90),
    augmentation=Augmentation(crop="random-resized", hflip=0.5),
    expects="se_resnet50: 23.29% top-1 error (paper, Table 2), 8 GPUs",
)
# The training of the released weights, from the authors' README.
imagenet_readme = replace(
    imagenet,
    batch_size=256,
    lr=0.1,
    augmentation=replace(imagenet.augmentation, rotation=10, pixel_jitter=20),
    expects="se_resnet50: 22.37% top-1 error (authors' README), 8 GPUs",
)
# Wightman et al. 2021, "ResNet strikes back" (arXiv 2110.00476), Table 2. Its RandAugment is timm's, which applies each
# of two operations with probability 0.5 at a strength of 7 (A2) or 6 (A3) out of 10, plus noise. torchvision's always
# applies its operations, so one of them at 21 or 18 out of 30 is nearest. The paper's stochastic depth of 0.05 (A2) is
# left out, since the networks of this package have none, and so is its random interpolation.
rsb_a2 = Recipe(
    epochs=300,
    batch_size=2048,
    optimizer="lamb",
    lr=5e-3,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=5,
    loss="bce:threshold=0.2",
    mixup=0.1,
    cutmix=1.0,
    augmentation=Augmentation(crop="random-resized", hflip=0.5, augment="rand:n=1,m=21"),
    repeated_augmentation=3,
    expects="resnet50: 79.8% top-1 (paper, Table 2, tested with a crop of 0.95), not run here",
)
rsb_a3 = replace(
    rsb_a2,
    epochs=100,
    lr=8e-3,
    augmentation=replace(rsb_a2.augmentation, train_size=160, augment="rand:n=1,m=18"),
    repeated_augmentation=1,
    expects="resnet50: 78.1% top-1 (paper, Table 2, tested at 224 with a crop of 0.95), not run here",
)
# For trained weights and few images: the new classifier learns ten times as fast as the rest, which is the ratio of
# Lightning's `BaseFinetuning`.
finetune = Recipe(
    epochs=15,
    batch_size=32,
    optimizer="adamw",
    lr=1e-3,
    backbone_lr_factor=0.1,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=1,
    augmentation=Augmentation(crop="random-resized", scale=(0.5, 1.0), hflip=0.5, color_jitter=0.1),
)
# torchvision's detection reference, for one device and networks that may be trained from scratch.
detection = Recipe(
    epochs=26,
    batch_size=8,
    lr=0.01,
    weight_decay=1e-4,
    schedule="step",
    warmup_epochs=0.5,
    step_epochs=(16, 22),
    clip_grad_norm=10.0,
    augmentation=Augmentation(crop="none", hflip=0.5),
)
# The paper's Table 7: Detectron's Faster R-CNN on COCO with the "2x" schedule of 180,000 steps of 16 images. The
# backbone has ImageNet weights with frozen norms and frozen first stages.
coco = replace(
    detection,
    epochs=24,
    batch_size=16,
    lr=0.02,
    warmup_epochs=0.07,
    clip_grad_norm=0.0,
    freeze_stages=2,
    freeze_bn=True,
    expects="faster_rcnn on COCO minival: resnet50 38.0, se_resnet50 40.4 mAP; with 101 layers 39.9 and 41.9 (paper, "
    "Table 7), 8 GPUs",
)
segmentation = Recipe(
    epochs=60,
    batch_size=16,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=2,
    augmentation=Augmentation(crop="scale-jitter", scale_jitter=(0.75, 1.5), hflip=0.5),
)

RECIPES: dict[str, Recipe] = {
    "cifar": cifar,
    "cifar_quick": cifar_quick,
    "cifar10_fast": cifar10_fast,
    "cifar_paper": cifar_paper,
    "digits": digits,
    "photos": photos,
    "finetune": finetune,
    "imagenet": imagenet,
    "imagenet_readme": imagenet_readme,
    "rsb_a2": rsb_a2,
    "rsb_a3": rsb_a3,
    "detection": detection,
    "coco": coco,
    "segmentation": segmentation,
}
"""Name to recipe."""

FINETUNE = "finetune"


def recipe_named(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        UnknownNameError: The name is unknown. The message names the nearest recipes.

    Example:
        >>> from senet.training import recipe_named
        >>> recipe = recipe_named("imagenet")
        >>> recipe.optimizer, recipe.batch_size, recipe.lr
        ('sgd', 1024, 0.6)
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]


BY_DATA = {"voc": "detection", "coco": "detection", "masks": "segmentation"}
"""Kind of data to the name of its recipe, where the names differ."""


def recipe_for(data: str, size: tuple[int, int]) -> str:
    """Return the name of the default recipe, by the data set, else by the size of the images."""
    kind = data.partition(":")[0]
    if kind in BY_DATA:
        return BY_DATA[kind]
    if kind in RECIPES:
        return kind
    return "cifar" if max(size) <= 64 else "photos"


def finetune_for(recipe: Recipe) -> Recipe:
    """Return the recipe `finetune` with another recipe's augmentation, unless that one is for photographs.

    Example:
        >>> from senet.training.recipes import RECIPES, finetune_for
        >>> finetune_for(RECIPES["digits"]).augmentation.hflip
        0
    """
    return finetune if recipe is photos else replace(finetune, augmentation=recipe.augmentation)


def fine_tuning(recipe: Recipe) -> Recipe:
    """Adapt a recipe to pretrained weights: a tenth of the learning rate, and at most ten epochs.

    Example:
        >>> from senet.training import fine_tuning, recipe_named
        >>> recipe = fine_tuning(recipe_named("photos"))
        >>> recipe.epochs, recipe.lr
        (10, 0.005)
    """
    return replace(recipe.for_epochs(min(10, recipe.epochs)), lr=recipe.lr / 10)
