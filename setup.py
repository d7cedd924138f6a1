"""Packages dssm: `pip install .[faiss]`; `make setup` installs the locked stack instead.

Horovod is required too, but cannot stand in `install_requires`: its build looks for TensorFlow, which pip's
isolated builds hide from it. Install this package first, then Horovod against what it brought:

    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 \
        pip install --no-build-isolation --no-cache-dir horovod==0.28.1

That needs `cmake<4`, `setuptools==69.5.1`, `wheel` and `packaging` in the environment, and a C++17 compiler.
"""

from setuptools import find_packages, setup

setup(
    name="dssm",
    version="0.1.0",
    description="Two-tower DSSM retrieval: Spark, Petastorm, Horovod and Keras, Spark",
    license="Apache-2.0",
    python_requires="==3.11.*",
    # What the command reads beside dssm/ in a checkout; dssm/shipped.py finds it in either place.
    packages=[*find_packages(include=["dssm", "dssm.*"]), "dssm.jobs", "dssm.conf"],
    package_dir={"dssm.jobs": "jobs", "dssm.conf": "conf"},
    package_data={"dssm.plan": ["constants.json"], "dssm.conf": ["schema.json", "spark/*"]},
    # Petastorm needs PyArrow < 15 and NumPy 1, Horovod needs TensorFlow < 2.19 and Keras 2.
    install_requires=[
        "fsspec",
        "matplotlib>=3.8",
        "numpy==1.26.*",
        "pandas==2.3.*",
        "petastorm==0.13.1",
        "prometheus-client>=0.20",
        "psutil>=5.9",
        "pyarrow==14.0.2",
        "pydantic>=2.7,<3",
        "pyspark>=3.5.9,<3.6",
        "pyyaml>=6",
        "rich>=13",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "tensorflow==2.15.1",
    ],
    entry_points={"console_scripts": ["dssm=dssm.submit:main"]},
    extras_require={
        "annoy": ["annoy==1.17.3"],
        # Packs the environment for a cluster's executors.
        "cluster": ["venv-pack>=0.2"],
        "faiss": ["faiss-cpu>=1.8,<2"],
        # Horovod has to be built with HOROVOD_GPU_OPERATIONS=NCCL.
        "gpu": ["tensorflow[and-cuda]==2.15.1"],
        # milvus-lite 3 needs PyArrow 15.
        "milvus": ["pymilvus==2.5.18", "milvus-lite==2.5.1"],
        "mlflow": ["mlflow-skinny>=3,<4"],
        "redis": ["redis>=5"],
        "serve": ["fastapi>=0.110", "uvicorn>=0.30"],
    },
)
