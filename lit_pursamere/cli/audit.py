"""`lit-pursamere audit`: what an attack on a defence is worth."""

from lit_pursamere.cli.lightning import command_line, examined
from lit_pursamere.ending import command, ending

__all__ = ["audit"]


def audit(*options: str) -> None:
    """Audit the defence of a `test` configuration under one of its attacks.

    `Checklist`, or `--audit Similarity`, `--audit Landscape` or `--audit Directions`, which end in figures.
    """
    from lit_pursamere.audit import Audit, Checklist, Trial, choose_attack
    from lit_pursamere.seeding import run_seed

    cli = command_line([*options], run=False, choices={"audit": (Audit, Checklist)})
    settings, task, data = cli.config_init.audit, cli.model, cli.datamodule
    defense, (x, y, index) = examined(cli, settings.images, "an audit")
    name = choose_attack(settings.attack, task.attacks)
    trial = Trial(
        defense, name, task.attacks[name], x, y, index.tolist(), data.images_name, task.evaluations,
        data.eval_batch_size, run_seed(), str(cli.trainer.precision), hidden=False,
    )  # fmt: skip
    with cli.trainer.precision_plugin.test_step_context():
        answer = settings.run(trial)
    made = f"{type(settings).__name__} of {name} on {len(x)} images written to {settings.output}"
    then = command("test", "--config", "FILE", "--model.attacks.exact", "pgd20_exact", "--model.output", "OTHER")
    print(f"{answer.text}\n{ending(made, answer.headline, then)}")
