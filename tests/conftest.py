import pytest
import torch

from fastsquid.cli import run_command


@pytest.fixture
def command(capsys):
    """Runs a command's main as the shell would: (exit code, standard output, standard error)."""

    def run(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: main([str(a) for a in arguments]))
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused: one sentence on standard error, exit code 2; returns the sentence."""

    def run(main, *arguments):
        code, _, err = command(main, *arguments)
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return run


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
