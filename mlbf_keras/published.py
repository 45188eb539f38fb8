"""The figures of the MLBF-Net paper (Zhang et al., arXiv 2008.07263), as printed."""

NUM_PUBLIC_RECORDS = 6877

# Table II, and the First_label of the challenge's public REFERENCE.csv; classes 1 to 9.
TABLE_II = (918, 1098, 704, 207, 1695, 556, 672, 825, 202)
PUBLIC_FIRST_LABELS = (918, 1098, 704, 207, 1695, 574, 653, 826, 202)

# The private test set of Table III, which was never published: records of each class.
PRIVATE_TEST_SET = (394, 466, 295, 97, 756, 250, 276, 340, 80)

# Table III: work, year, architecture, F1 of the nine classes and their average, on the private
# test set of CPSC 2018.  "-" if the work does not report it.
TABLE_III = (
    ("[28]", "2018", "CNN+LSTM")
    + ("0.753", "0.900", "0.809", "0.874", "0.922", "0.638", "0.832", "0.762", "0.462", "0.772"),
    ("[38]", "2018", "Expert features; CNN")
    + ("0.82", "0.91", "0.87", "0.87", "0.91", "0.63", "0.82", "0.81", "0.60", "0.81"),
    ("[27]", "2019", "CNN+LSTM") + ("-",) * 9 + ("0.806",),
    ("[39]", "2019", "CNN+Attention")
    + ("0.79", "0.93", "0.85", "0.86", "0.93", "0.75", "0.85", "0.80", "0.56", "0.813"),
    ("[40]", "2020", "CNN+LSTM+Attention")
    + ("0.789", "0.920", "0.850", "0.872", "0.933", "0.736", "0.861", "0.789", "0.556", "0.812"),
    ("[41]", "2020", "Multi-Scaled CNN+Attention")
    + ("0.82", "0.90", "0.86", "0.87", "0.93", "0.78", "0.88", "0.80", "0.62", "0.828"),
    ("[42]", "2020", "CNN+Attention+BiGRU; Ensemble model")
    + ("0.819", "0.936", "0.866", "0.862", "0.926", "0.789", "0.865", "0.812", "0.640", "0.835"),
    ("[43]", "2020", "CNN+BiGRU+Attention; Ensemble model")
    + ("0.801", "0.933", "0.875", "0.884", "0.910", "0.826", "0.869", "0.811", "0.624", "0.837"),
    ("Ours¹", "", "Multi-Lead-Branch; CNN+BiGRU+Attention")
    + ("0.850", "0.933", "0.885", "0.862", "0.931", "0.801", "0.859", "0.820", "0.646", "0.843"),
    ("Ours²", "", "Ensemble model based on Ours¹")
    + ("0.847", "0.934", "0.884", "0.896", "0.939", "0.822", "0.878", "0.818", "0.677", "0.855"),
)

# Table IV: mean and SD over ten folds of each class's F1, and of their average.
TABLE_IV = {
    "BranchNet": (
        *((0.809, 0.018), (0.914, 0.017), (0.872, 0.022), (0.882, 0.043), (0.929, 0.019)),
        *((0.739, 0.060), (0.872, 0.027), (0.808, 0.033), (0.513, 0.101), (0.815, 0.018)),
    ),
    "MLBF-Net": (
        *((0.832, 0.033), (0.932, 0.017), (0.902, 0.025), (0.911, 0.032), (0.944, 0.013)),
        *((0.814, 0.051), (0.889, 0.018), (0.834, 0.038), (0.608, 0.126), (0.852, 0.021)),
    ),
}

# Table V: mean and SD of the average F1, in the table's order: the single loss, three values of
# lambda below 1, lambda = 1, three above it.  Section V-A confirms the single loss and lambda = 1,
# and says that lambda ranged from 0 to 10; the six other values are not printed.
TABLE_V_SINGLE_LOSS = (0.828, 0.021)
TABLE_V_BELOW_1 = ((0.837, 0.020), (0.844, 0.017), (0.849, 0.017))
TABLE_V_1 = (0.852, 0.021)
TABLE_V_ABOVE_1 = ((0.843, 0.014), (0.848, 0.023), (0.847, 0.023))

# Table VI: parameters of the parts of one branch, then of the network; section V-C's total.  Its
# rows count only the matrix W of each attention, and batch norm with its moving statistics.
TABLE_VI_BRANCH = {
    "Conv 3, stride 1 (first of blocks 1 to 4)": 1380,
    "Conv 3, stride 1 (second of blocks 1 to 4)": 1776,
    "Conv 24, stride 2 (blocks 1 to 4)": 13872,
    "Conv 3, stride 1 (first of block 5)": 444,
    "Conv 3, stride 1 (second of block 5)": 444,
    "Conv 48, stride 2 (block 5)": 6924,
    "BiGRU 12": 1872,
    "Attention": 576,
    "Batch normalisation": 96,
    "Fully connected 9": 225,
}
TABLE_VI_FUSED = {
    "Attention": 82944,
    "Batch normalisation": 1152,
    "Fully connected 9": 2601,
}
TABLE_VI_TOTAL = 418_005
