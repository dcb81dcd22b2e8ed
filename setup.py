"""Everything is in setup.cfg but this: an installed package carries the configurations, which `tf-reweight init` writes."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Copies `configs/` into the package that is built; an editable installation finds them beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib, "tf_reweight", "configs")
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(pathlib.Path("configs").iterdir()):
                if path.suffix in (".yaml", ".py"):
                    shutil.copy(path, target)


setup(cmdclass={"build_py": WithConfigs})
