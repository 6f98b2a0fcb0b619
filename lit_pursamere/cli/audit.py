"""`lit-pursamere audit` and `eot-similarity`: what an attack on a defence is worth."""

from lit_pursamere.cli.lightning import command_line, examined

__all__ = ["audit", "eot_similarity"]


def audit(*options: str) -> None:
    """Run the checks of `lit_pursamere.audit` on the defence of a `test` configuration, under one of its attacks."""
    from lit_pursamere.audit import Audit, choose_attack, run_audit
    from lit_pursamere.seeding import run_seed

    cli = command_line([*options], run=False, options={"audit": Audit})
    settings = cli.config_init.audit
    defense, (x, y, _) = examined(cli, settings.images, "an audit")
    task, data = cli.model, cli.datamodule
    name = choose_attack(settings.attack, task.attacks)
    text = run_audit(
        settings, defense, name, task.attacks[name], x, y, task.evaluations, data.eval_batch_size, run_seed(),
        data.images_name, hidden=False,
    )  # fmt: skip
    print(text, end="")


def eot_similarity(*options: str) -> None:
    """Compare averaged gradients of the stochastic defence of a `test` configuration with those of known noise."""
    from lit_pursamere.audit import Similarity, choose_attack, run_similarity

    cli = command_line([*options], run=False, options={"similarity": Similarity})
    settings, data = cli.config_init.similarity, cli.datamodule
    defense, (x, y, index) = examined(cli, settings.images, "eot-similarity")
    name = choose_attack(settings.attack, cli.model.attacks)
    table = run_similarity(
        settings, defense, name, cli.model.attacks[name], x, y, index.tolist(), data.images_name,
        data.eval_batch_size, hidden=False,
    )  # fmt: skip
    print(f"{table}\nRows, means and picture: {settings.output}")
