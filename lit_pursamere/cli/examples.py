"""Commands that show what a verb is for; `--help` begins with them. All of them spell right: a test looks."""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "fit": (
        "fit --config digits/score",
        "fit --config cifar10/score_small --trainer.devices 2 --trainer.strategy ddp",
        "fit --config digits/classifier --model.export my.safetensors --trainer.max_epochs 9",
    ),
    "validate": (
        "validate --config digits/score",
        "validate --config digits/score --ckpt_path last.ckpt",
    ),
    "predict": (
        "predict --config digits/purify",
        "predict --config digits/purify --model.purifier adp --model.output runs/digits/adp",
        "predict --config digits/purify --data.evaluate test --model.output runs/test_images",
        "predict --config digits/purify --shard 3/8",
    ),
    "test": (
        "test --config digits/robustness",
        "test --config digits/robustness --model.purifier.rho_pur 1 --model.output runs/rho1",
        "test --config digits/robustness --model.attacks.mine fgsm --model.output runs/fgsm",
        "test --config digits/robustness --model.threat.eps 8/255 --model.output runs/eps8",
    ),
    "certify": (
        "certify --config digits/certify",
        "certify --config digits/certify --model.sigma 0.3 --model.output runs/sigma03",
        "certify --config digits/certify --model.purifier adp --model.output runs/adp",
        "report runs/digits/certify runs/digits/smoothed --output runs/both",
    ),
    "purify": (
        "purify photos/ purified/ --purifier pursamere_digits --score_model digits",
        "purify photos/ purified/ --purifier pursamere --score_model cifar10/edm --seed 1",
        "purify some.npz purified/ --purifier dp_ddim --score_model cifar10/ddpm",
    ),
    "purified inspect": (
        "purified inspect runs/digits/purified",
        "purified inspect runs/digits/purified --images 50 --picture look.png",
    ),
    "evaluate": (
        "evaluate mynet:Net mine.pt photos/ --normalise 0.5 0.5 --purifier pursamere_small",
        'evaluate mynet:Net mine.ckpt cifar10 --threat "linf 8/255" --attacks paper --n 256',
        "evaluate torchvision:resnet50 photos/ --purifier Identity --n 64",
    ),
    "init": (
        "init myproject",
        'init myproject --images photos/ --image_size 64 --threat "l2 0.5"',
    ),
    "compare": (
        "compare compare/digits_short",
        "compare compare/digits --only PurSAMERE ADP --data.test_size 16",
        "compare compare/digits --table",
    ),
    "sbatch": (
        "sbatch test --shards 64 --config cifar10/tables_1_2 --model.output runs/table",
        "sbatch predict --shards 16 --config cifar10/purify --slurm partition=gpu",
        "sbatch test --shards 8 --script array.sh --config digits/robustness",
    ),
    "ray": (
        "ray test --shards 64 --config cifar10/tables_1_2 --model.output runs/table",
        "ray predict --shards 16 --config cifar10/purify --gpus 0.5 --address auto",
    ),
    "report": (
        "report runs/digits/robustness",
        "report runs/digits/robustness --format html",
        "report runs/digits/robustness runs/rho1 --mix --output runs/both",
    ),
    "runs": (
        "runs runs",
        "runs runs/digits/robustness runs/rho1",
    ),
    "reverify": (
        "reverify runs/digits/robustness --precision 64",
        "reverify runs/digits/robustness --device cuda --batch_size 64",
    ),
    "export": (
        "export runs/digits/robustness adversarial.npz",
        "export runs/digits/robustness adversarial.npz --iterate last",
    ),
    "judge": (
        "judge adversarial.npz --config digits/robustness --model.output runs/judged",
        "judge adversarial.npz --config mine.yaml --model.output runs/judged/mine",
    ),
    "fid": (
        "fid --data cifar10 --score_model ddpm --objective DDPMObjective --weights fid.pth",
        "fid --data cifar10 --split test --images runs/cifar10/purified --weights fid.pth",
    ),
    "figure": (
        "figure reconstruction-error figure.png",
        "figure coup-toy toy.pdf",
    ),
    "experiment": (
        "experiment digits/experiment_short",
        "experiment cifar10/small --trainer.devices 2 --trainer.strategy ddp",
    ),
    "estimate": (
        "estimate --config cifar10/tables_1_2",
        "estimate experiment cifar10/paper --estimate.devices h100,8xa100",
        "estimate compare compare/digits",
        "estimate fit --config digits/score --estimate.measure true",
    ),
    "audit": (
        "audit --config digits/robustness --audit.attack BPDA20-det --audit.images 32",
        "audit --config digits/robustness --audit Similarity",
        "audit --config digits/robustness --audit Landscape",
    ),
    "walk": (
        "walk --config digits/robustness --data.test_size 50 --model.output runs/walk",
        "walk --walk Strips --config digits/detection --model.output runs/strips",
        "walk --walk ReconstructionErrors --config digits/robustness --model.output runs/walk",
    ),
    "sigmas": (
        "sigmas --data digits",
        "sigmas --data cifar10 --images 5000 --sigma_min 0.005",
    ),
    "weights list": ("weights list", "weights list --here"),
    "weights get": (
        "weights get cifar10/edm",
        "weights get cifar10/ncsnv2 --file checkpoint_300000.pth",
    ),
    "weights inspect": (
        "weights inspect digits/ncsnv2",
        "weights inspect checkpoint_300000.pth --weights raw",
    ),
    "weights convert": (
        "weights convert checkpoint_8.pth ddpmpp.safetensors",
        "weights convert last.ckpt mine.safetensors --dtype float16",
    ),
    "completion": (
        'eval "$(lit-pursamere completion bash)"     # in ~/.bashrc',
        'eval "$(lit-pursamere completion zsh)"      # in ~/.zshrc, below compinit',
        "lit-pursamere completion fish > ~/.config/fish/completions/lit-pursamere.fish",
    ),
}
