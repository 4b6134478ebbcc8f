"Packaging, from settings.ini: `pip install rfcx_kit`, `rfcx_kit[train]`, `[motif]`, `[map]`, `[dask]`, `[kaggle]`, `[dev]`."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}
extras["all"] = sorted({r for name in ("train", "kaggle", "motif") for r in extras[name]})

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    packages=find_packages(include=["rfcx_kit", "rfcx_kit.*"]),
    package_data={"rfcx_kit": ["recipes/*.yaml", "recipes/*/*.yaml", "priors/*.csv"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": ["rfcx = rfcx_kit.cli:main"], "nbdev": ["rfcx_kit=rfcx_kit._modidx:d"]},
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research", "Programming Language :: Python :: 3"],
    zip_safe=False,
)
