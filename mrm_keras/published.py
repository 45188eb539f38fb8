"""The figures of the MRM-Net paper (Huang et al., arXiv 2406.16928), as printed.

Macro-AUC, accuracy and F1 per record in percent, mean and SD over trainings whose number the paper
does not give.
"""

# Records of PTB-XL (the paper uses version 1.0.1; the current 1.0.3 has fewer) and of the public
# part of CPSC 2018.
NUM_RECORDS = {"ptb-xl": (21837, 21801, 21799), "cpsc2018": (6877,)}

# Table I: kernel, stride, padding, channels in, channels out.
TABLE_I = {
    "Conv1": (11, 1, 5, 12, 32),
    "Conv2": (7, 1, 3, 32, 64),
    "Conv3": (5, 1, 2, 64, 128),
    "Conv4": (3, 1, 1, 128, 128),
}

# Tables II and III, by task and network.
TABLES_II_III = {
    "all": {
        "fcn_wang": "88.92±1.85 97.71±0.12 70.39±0.71",
        "resnet1d_wang": "91.48±0.99 97.88±0.07 70.68±1.04",
        "xresnet1d101": "90.78±1.87 97.77±0.10 71.27±0.87",
        "ECG_BNN": "84.62±1.24 97.41±0.02 62.29±1.56",
        "MobileNetV3": "89.04±0.77 97.79±0.05 69.91±0.86",
        "InceptionTime": "91.07±1.05 97.83±0.11 71.69±0.92",
        "MVMSNet": "92.46±0.22 97.91±0.05 72.43±0.67",
        "MRM-Net": "93.59±0.19 97.96±0.04 73.74±0.59",
    },
    "diagnostic": {
        "fcn_wang": "91.11±0.78 97.81±0.05 64.85±1.89",
        "resnet1d_wang": "93.01±1.08 97.92±0.11 64.51±1.32",
        "xresnet1d101": "91.98±1.12 97.91±0.05 64.56±2.02",
        "ECG_BNN": "85.41±2.02 97.61±0.08 51.85±1.62",
        "MobileNetV3": "88.46±3.72 97.49±0.07 61.13±1.36",
        "InceptionTime": "92.81±0.94 97.94±0.10 65.09±1.82",
        "MVMSNet": "92.92±0.94 97.92±0.06 66.09±2.02",
        "MRM-Net": "94.16±0.18 97.95±0.08 69.02±1.12",
    },
    "subdiagnostic": {
        "fcn_wang": "91.96±0.70 96.15±0.09 67.48±0.74",
        "resnet1d_wang": "92.83±0.36 96.40±0.06 66.66±1.24",
        "xresnet1d101": "91.35±0.68 96.32±0.08 68.06±1.41",
        "ECG_BNN": "86.32±0.79 95.63±0.12 57.93±1.33",
        "MobileNetV3": "89.53±1.97 96.03±0.09 64.35±2.21",
        "InceptionTime": "92.32±0.59 96.30±0.11 67.29±1.53",
        "MVMSNet": "92.77±0.89 96.51±0.09 69.42±1.09",
        "MRM-Net": "93.63±0.15 96.50±0.06 70.59±0.96",
    },
    "superdiagnostic": {
        "fcn_wang": "91.92±0.33 88.21±0.32 76.07±1.20",
        "resnet1d_wang": "91.82±0.52 88.29±0.71 75.76±2.11",
        "xresnet1d101": "92.02±0.66 88.50±0.50 75.96±1.60",
        "ECG_BNN": "87.53±0.41 84.95±0.22 67.69±0.89",
        "MobileNetV3": "90.60±1.07 87.83±0.72 74.58±2.32",
        "InceptionTime": "92.52±0.31 88.30±0.47 76.37±1.13",
        "MVMSNet": "92.96±0.23 89.02±0.56 77.35±1.27",
        "MRM-Net": "92.77±0.25 89.03±0.41 77.66±1.04",
    },
    "form": {
        "fcn_wang": "82.09±3.45 94.19±0.20 46.85±4.77",
        "resnet1d_wang": "86.88±2.01 94.33±0.15 49.69±3.95",
        "xresnet1d101": "83.08±2.31 94.07±0.34 48.77±2.75",
        "ECG_BNN": "78.21±2.31 93.99±0.07 40.75±3.51",
        "MobileNetV3": "80.21±4.04 92.95±0.52 45.01±4.87",
        "InceptionTime": "84.81±2.04 92.95±0.37 45.46±3.79",
        "MVMSNet": "87.42±1.82 94.05±0.21 50.24±3.04",
        "MRM-Net": "89.51±1.12 94.50±0.11 52.07±2.64",
    },
    "rhythm": {
        "fcn_wang": "90.53±2.61 97.81±0.11 87.14±2.55",
        "resnet1d_wang": "92.88±3.05 98.37±0.07 89.13±0.67",
        "xresnet1d101": "95.82±0.31 98.37±0.07 89.06±0.45",
        "ECG_BNN": "95.02±0.67 98.40±0.08 89.65±0.49",
        "MobileNetV3": "96.01±0.49 98.50±0.09 90.74±0.39",
        "InceptionTime": "96.00±1.02 98.42±0.11 90.21±0.61",
        "MVMSNet": "94.61±0.85 98.40±0.12 89.69±0.54",
        "MRM-Net": "97.61±0.23 98.51±0.09 91.04±0.34",
    },
}

# Macro-AUC on fold 10 in the leaderboard of the PTB-XL benchmark (Strodthoff 2021, arXiv
# 2004.13701): 50 epochs, one-cycle schedule, crops of 2.5 s.
BENCHMARK_AUC = {
    "all": {
        "fcn_wang_benchmark": 0.918,
        "resnet1d_wang_benchmark": 0.919,
        "xresnet1d101_benchmark": 0.925,
        "InceptionTime": 0.925,
    },
    "superdiagnostic": {
        "fcn_wang_benchmark": 0.925,
        "resnet1d_wang_benchmark": 0.930,
        "xresnet1d101_benchmark": 0.928,
        "InceptionTime": 0.921,
    },
}

TABLE_IV = {
    "fcn_wang": "91.68±1.69 94.09±0.52 63.84±1.60",
    "resnet1d_wang": "94.14±1.10 94.86±0.44 72.38±1.16",
    "xresnet1d101": "93.89±1.51 94.74±0.27 73.33±0.26",
    "ECG_BNN": "90.12±1.06 93.60±0.47 60.22±4.46",
    "MobileNetV3": "93.29±1.19 94.76±0.19 74.53±1.39",
    "InceptionTime": "94.14±0.74 94.90±0.29 73.93±2.34",
    "MVMSNet": "94.34±1.24 95.13±0.14 75.19±1.07",
    "MRM-Net": "96.14±0.17 95.92±0.09 76.24±0.97",
}

# Tables V and VI, by task and row.
TABLE_V = {
    "all": {
        "addition": "93.23±0.27 97.73±0.06 71.50±1.35",
        "concatenation": "92.40±0.47 95.31±0.35 63.59±2.31",
        "MRM-Net": TABLES_II_III["all"]["MRM-Net"],
    },
    "cpsc2018": {
        "addition": "95.23±0.34 95.40±0.18 77.14±1.54",
        "concatenation": "95.33±0.17 91.18±0.79 73.11±3.45",
        "MRM-Net": TABLE_IV["MRM-Net"],
    },
}
TABLE_VI = {
    "all": {
        "low resolution": "92.07±0.46 97.84±0.06 71.89±0.87",
        "high resolution": "93.22±0.47 97.92±0.03 72.46±0.71",
        "MRM-Net": TABLES_II_III["all"]["MRM-Net"],
    },
    "cpsc2018": {
        "low resolution": "95.51±0.29 95.67±0.08 77.09±1.11",
        "high resolution": "95.54±0.17 95.53±0.12 76.08±1.34",
        "MRM-Net": TABLE_IV["MRM-Net"],
    },
}

# Table VII, task all, completed from section IV-D; seconds per epoch (RTX 3080).
TABLE_VII = {
    "all": {
        "64 and 128 channels": "92.50 – 73.70±0.87",
        "128 and 256 channels": "93.59±0.19 97.96±0.04 73.74±0.59",
        "256 and 512 channels": "93.87 – 74.01±0.23",
    }
}
TABLE_VII_SECONDS = {
    "64 and 128 channels": 50,
    "128 and 256 channels": 90,
    "256 and 512 channels": 230,
}
