"""A training with Lightning as its users write it; others.py runs it, kills it and lets it resume.

python benchmarks/others_lightning.py photographs run --every 5
"""

import argparse
from pathlib import Path

import torch
import torchvision
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F
from torchvision.transforms import v2

EPOCHS = 4


class Classifier(LightningModule):
    def __init__(self, seed_each_epoch: bool):
        super().__init__()
        self.seed_each_epoch = seed_each_epoch
        self.model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)

    def on_load_checkpoint(self, checkpoint):
        if self.seed_each_epoch:  # the first order after a resume is drawn before the sampler is told the epoch
            seed_everything(2 + checkpoint["epoch"], workers=True, verbose=False)

    def on_train_epoch_start(self):
        print(f"\nbegins {self.current_epoch}")

    def training_step(self, batch, step):
        print(f"step {self.current_epoch} {step}")
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_accuracy", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


class SeedsEachEpoch(torch.utils.data.RandomSampler):
    """Lightning tells its sampler each epoch before it begins."""

    def set_epoch(self, epoch: int) -> None:
        seed_everything(1 + epoch, workers=True, verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("out", type=Path, help="where checkpoints and the log go")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--every", type=int, help="a checkpoint every N steps, too")
    parser.add_argument(
        "--seed_each_epoch", action="store_true", help="in lines that users can add: a sampler and a hook"
    )
    options = parser.parse_args()
    seed_everything(1, workers=True)
    read = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    augmented = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4), read])
    images = {
        part: torchvision.datasets.ImageFolder(options.data / part, transform)
        for part, transform in {"train": augmented, "val": read}.items()
    }
    keep = [ModelCheckpoint(options.out, save_last=True)]
    if options.every:
        keep.append(ModelCheckpoint(options.out, filename="within", every_n_train_steps=options.every))
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        deterministic=True,
        callbacks=[*keep, LearningRateMonitor("epoch")],
        logger=CSVLogger(options.out, name="", version=""),
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    sampler = (SeedsEachEpoch if options.seed_each_epoch else torch.utils.data.RandomSampler)(images["train"])
    saved = options.out / ("within.ckpt" if options.every else "last.ckpt")
    trainer.fit(
        Classifier(options.seed_each_epoch),
        torch.utils.data.DataLoader(images["train"], 16, sampler=sampler, num_workers=1),
        torch.utils.data.DataLoader(images["val"], 100),
        ckpt_path=saved if options.resume else None,
    )
    print(f"lr {[group['lr'] for group in trainer.optimizers[0].param_groups]}")
    print(f"final accuracy {float(trainer.callback_metrics['val_accuracy']):.4f}")


if __name__ == "__main__":
    main()
