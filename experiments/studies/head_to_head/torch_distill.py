"""KD and SKD in plain PyTorch. The views are exported, because no two frameworks draw the same crops."""

import math

import torch
from torch.nn import functional as F

from experiments.studies.head_to_head.views import Batches
from tools.benchmarks.torch_resnet import resnet

T, KD_WEIGHT, MEAN, STD = 4.0, 0.9, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def normalized(images):
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) * 255 for value in (MEAN, STD))
    return ((torch.tensor(images).permute(0, 3, 1, 2) - mean) / std).contiguous(memory_format=torch.channels_last)


def train(folder, method, seed, peak, total, steps):
    torch.manual_seed(seed)
    net, warmup = resnet("resnet8", 100).to(memory_format=torch.channels_last), round(0.05 * total)
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    optimizer = torch.optim.SGD(net.parameters(), peak, momentum=0.9, weight_decay=5e-4)
    for step, (images, taught, labels) in enumerate(Batches(folder, seed).first(steps)):
        cosine = (1 + math.cos(math.pi * max(step - warmup, 0) / (total - warmup))) / 2
        optimizer.param_groups[0]["lr"] = peak * cosine * min(1.0, (step + 1) / warmup)
        s, t, y = net(normalized(images)), torch.tensor(taught), torch.tensor(labels).long()
        if method == "skd":  # as in the authors' code, m = 2: the radius is 2 sqrt(100) = 20
            s, t = (2 * F.layer_norm(z, [100], eps=1e-7) for z in (s, t))
        distill = F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T**2
        loss = KD_WEIGHT * distill + (1 - KD_WEIGHT) * F.cross_entropy(s, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    predict = torch.no_grad()(lambda images: net(normalized(images)))
    return lambda images: torch.cat([predict(images[i : i + 500]) for i in range(0, len(images), 500)]).numpy()
